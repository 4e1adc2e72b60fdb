"""Which ranges hold a key: an interval index for watched ranges.

Bounded ranges are nodes of a treap ordered by (low, high); each node knows the greatest
high end below it, so a search visits only branches that can hold the key (Cormen et
al., "Introduction to Algorithms", section on interval trees; Seidel and Aragon,
"Randomized Search Trees", 1996). Ranges without a high end are a sorted list of low
ends.

Rules of this file:

1. Adding and removing take O(log n), whatever the ranges are; a search takes O(log n)
   and a share of that for each range found.
2. Priorities come from the injected randomness, so that nobody can choose ranges that
   make the tree deep.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable
from random import Random
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class _Node(Generic[Item]):
    """One distinct range and its items.

    Invariants: ``top`` is the greatest ``high`` in the subtree; no child has a greater
    ``priority``; (low, high) of the left subtree is less, of the right one greater.
    """

    __slots__ = ("high", "items", "left", "low", "priority", "right", "top")

    def __init__(self, low: bytes, high: bytes, priority: float) -> None:
        self.low = low
        self.high = high
        self.top = high
        self.priority = priority
        self.items: dict[Item, None] = {}
        self.left: _Node[Item] | None = None
        self.right: _Node[Item] | None = None

    def refresh(self) -> None:
        """Make ``top`` right again after a child changed."""
        top = self.high
        left, right = self.left, self.right
        if left is not None and left.top > top:
            top = left.top
        if right is not None and right.top > top:
            top = right.top
        self.top = top


class IntervalIndex(Generic[Item]):
    """Items by half-open range of keys, found by a key inside.

    An item may be added under any number of ranges, once under each.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._root: _Node[Item] | None = None
        self._nodes: dict[tuple[bytes, bytes], _Node[Item]] = {}
        self._open_lows: list[bytes] = []
        self._open_items: dict[bytes, dict[Item, None]] = {}

    def __bool__(self) -> bool:
        return self._root is not None or bool(self._open_lows)

    def __len__(self) -> int:
        """The number of distinct ranges."""
        return len(self._nodes) + len(self._open_lows)

    def add(self, low: bytes, high: bytes | None, item: Item) -> None:
        """Add an item under [low, high), or [low, end of all keys) for None.

        An empty range (high <= low) is allowed and never found. Raises: nothing.
        """
        if high is None:
            items = self._open_items.get(low)
            if items is None:
                items = self._open_items[low] = {}
                self._open_lows.insert(bisect_left(self._open_lows, low), low)
            items[item] = None
            return
        node = self._nodes.get((low, high))
        if node is None:
            node = _Node(low, high, self._random.random())
            self._nodes[low, high] = node
            self._root = _insert(self._root, node)
        node.items[item] = None

    def remove(self, low: bytes, high: bytes | None, item: Item) -> None:
        """Take an item out from under a range.

        Raises:
            KeyError: it is not there.
        """
        if high is None:
            items = self._open_items[low]
            del items[item]
            if not items:
                del self._open_items[low]
                del self._open_lows[bisect_left(self._open_lows, low)]
            return
        node = self._nodes[low, high]
        del node.items[item]
        if not node.items:
            del self._nodes[low, high]
            self._root = _remove(self._root, low, high)

    def find(self, key: bytes) -> list[Item]:
        """The items of all ranges that hold the key, in no particular order.

        Raises: nothing.
        """
        found: list[Item] = []
        lows = self._open_lows
        if lows:
            for low in lows[: bisect_right(lows, key)]:
                found += self._open_items[low]
        node = self._root
        later: list[_Node[Item]] = []
        while True:
            if node is None or node.top <= key:
                if not later:
                    return found
                node = later.pop()
                continue
            if node.low <= key:
                if key < node.high:
                    found += node.items
                if node.right is not None:
                    later.append(node.right)
            node = node.left

    def depth(self) -> int:
        """The longest path of the tree, for tests. Raises: nothing."""
        longest = 0
        level = [] if self._root is None else [self._root]
        while level:
            longest += 1
            level = [
                child
                for node in level
                for child in (node.left, node.right)
                if child is not None
            ]
        return longest


def _insert(root: _Node[Item] | None, new: _Node[Item]) -> _Node[Item]:
    if root is None:
        return new
    if (new.low, new.high) < (root.low, root.high):
        root.left = left = _insert(root.left, new)
        if left.priority > root.priority:
            root.left, left.right = left.right, root
            root.refresh()
            root = left
    else:
        root.right = right = _insert(root.right, new)
        if right.priority > root.priority:
            root.right, right.left = right.left, root
            root.refresh()
            root = right
    root.refresh()
    return root


def _remove(root: _Node[Item] | None, low: bytes, high: bytes) -> _Node[Item] | None:
    if root is None:
        raise KeyError((low, high))
    if (low, high) == (root.low, root.high):
        return _join(root.left, root.right)
    if (low, high) < (root.low, root.high):
        root.left = _remove(root.left, low, high)
    else:
        root.right = _remove(root.right, low, high)
    root.refresh()
    return root


def _join(left: _Node[Item] | None, right: _Node[Item] | None) -> _Node[Item] | None:
    """One tree of two, all of whose left ranges come before the right ones."""
    if left is None:
        return right
    if right is None:
        return left
    if left.priority > right.priority:
        left.right = _join(left.right, right)
        left.refresh()
        return left
    right.left = _join(left, right.left)
    right.refresh()
    return right

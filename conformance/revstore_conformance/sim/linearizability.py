"""Whether a history of operations can be explained one operation after the other.

The algorithm is Wing and Gong's search with Lowe's memoisation, on parts: keys that no
transaction joins are independent of one another, so each group is searched alone (a
history is linearizable if and only if each part is).

An operation compares keys with expected values, and then does one of two lists of
actions; a put is one without comparisons. Values are written at most once, which lets
the search drop what cannot matter: a put whose outcome nobody knows, and whose value
nobody ever saw, might as well never have happened, since every operation on a key
either shows what it met or overwrites it unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

UNKNOWN_TIME = math.inf

Value = bytes | None
State = tuple[Value, ...]


class Action(msgspec.Struct, frozen=True, gc=False):
    """One step of an operation on a key: ``get``, ``put`` or ``delete``."""

    kind: str
    key: bytes
    value: bytes = b""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One operation of a client, from its call to its return.

    ``seen`` has what each get and delete of the list that was done met, in order.
    """

    client: str
    begin: float
    end: float = UNKNOWN_TIME
    """``UNKNOWN_TIME``: nobody knows whether, or when, it took effect."""
    compares: tuple[tuple[bytes, Value], ...] = ()
    then: tuple[Action, ...] = ()
    otherwise: tuple[Action, ...] = ()
    succeeded: bool = True
    seen: tuple[Value, ...] = ()
    revision: int = 0
    """Of the answer's header; 0 if there was none."""
    member: str = ""

    def touched(self) -> list[bytes]:
        """The keys that it touches."""
        touched = [key for key, _ in self.compares]
        touched += [action.key for action in (*self.then, *self.otherwise)]
        return list(dict.fromkeys(touched))

    @property
    def known(self) -> bool:
        """Whether its outcome is known."""
        return self.end != UNKNOWN_TIME

    def writes(self) -> bool:
        """Whether it may change anything."""
        return any(a.kind != "get" for a in (*self.then, *self.otherwise))

    def text(self) -> str:
        """On one line, for counter-examples."""
        span = f"{self.begin:9.4f} .. "
        span += f"{self.end:9.4f}" if self.known else "        ?"
        parts = [f"{key.decode()}=={_show(value)}?" for key, value in self.compares]
        done = self.then if self.succeeded else self.otherwise
        seen = iter(self.seen)
        for action in done:
            name = action.key.decode()
            if action.kind == "put":
                parts.append(f"put {name}={_show(action.value)}")
            else:
                shown = _show(next(seen, None)) if self.known else "?"
                parts.append(f"{action.kind} {name}->{shown}")
        if self.compares and self.known:
            parts.insert(len(self.compares), "yes:" if self.succeeded else "no:")
        where = f" at {self.member}" if self.member else ""
        return f"{span} {self.client:<4} {' '.join(parts)} (rev {self.revision}){where}"


def _show(value: Value) -> str:
    return "-" if value is None else value.decode()


class Verdict(msgspec.Struct, frozen=True):
    """What the search found."""

    linearizable: bool
    decided: bool = True
    """False if the search was given up at its bound."""
    text: str = ""
    """A counter-example if there is none."""


class _Compiled:
    """An operation with keys replaced by places in the state."""

    __slots__ = ("begin", "compares", "end", "known", "op", "otherwise", "then")

    def __init__(self, operation: Operation, places: dict[bytes, int]) -> None:
        self.op = operation
        self.begin, self.end = operation.begin, operation.end
        self.known = operation.known
        self.compares = [(places[key], value) for key, value in operation.compares]
        self.then = [(a.kind, places[a.key], a.value) for a in operation.then]
        self.otherwise = [(a.kind, places[a.key], a.value) for a in operation.otherwise]

    def step(self, state: State) -> State | None:
        """The state behind it, None if it cannot have met ``state``."""
        matches = all(state[place] == value for place, value in self.compares)
        if self.known and matches != self.op.succeeded:
            return None
        after = list(state)
        seen = self.op.seen
        number = 0
        for kind, place, value in self.then if matches else self.otherwise:
            if kind == "put":
                after[place] = value
                continue
            if self.known:
                if seen[number] != after[place]:
                    return None
                number += 1
            if kind == "delete":
                after[place] = None
        return tuple(after)


def partitions(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Operations by groups of keys that transactions join, in order of their begin."""
    parent: dict[bytes, bytes] = {}

    def find(key: bytes) -> bytes:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for operation in operations:
        keys = operation.touched()
        for key in keys[1:]:
            parent[find(key)] = find(keys[0])
    groups: dict[bytes, list[Operation]] = {}
    for operation in sorted(operations, key=lambda one: one.begin):
        groups.setdefault(find(operation.touched()[0]), []).append(operation)
    return list(groups.values())


def needed(operations: Iterable[Operation]) -> list[Operation]:
    """Without puts of unknown outcome whose values nobody ever saw."""
    all_operations = list(operations)
    seen: set[Value] = set()
    for one in all_operations:
        seen.update(one.seen)
        seen.update(value for _, value in one.compares)
    return [
        one
        for one in all_operations
        if one.known or any(_matters(action, seen) for action in one.then)
    ]


def _matters(action: Action, seen: set[Value]) -> bool:
    if action.kind == "put":
        return action.value in seen
    return action.kind == "delete"


def check(operations: Sequence[Operation], steps_max: int = 400_000) -> Verdict:
    """Whether one group of operations is linearizable, from an empty state."""
    kept = needed(operations)
    keys = list(dict.fromkeys(key for one in kept for key in one.touched()))
    places = {key: place for place, key in enumerate(keys)}
    compiled = [_Compiled(one, places) for one in kept]
    return _Search(compiled, len(keys), keys).run(steps_max)


class _Search:
    """Lowe's search: a list of calls and returns, from which operations are lifted."""

    def __init__(
        self, operations: list[_Compiled], width: int, keys: list[bytes]
    ) -> None:
        self._operations = operations
        self._keys = keys
        self._start: State = (None,) * width
        count = len(operations)
        moments = [(one.begin, 0, number) for number, one in enumerate(operations)]
        moments += [
            (one.end, 1, number) for number, one in enumerate(operations) if one.known
        ]
        moments.sort()
        self._known = sum(1 for one in operations if one.known)
        # Calls are 1..count, returns behind them; 0 is the head of the linked list.
        ids = [
            number + 1 if kind == 0 else number + 1 + count
            for _, kind, number in moments
        ]
        self._next = [0] * (2 * count + 1)
        self._previous = [0] * (2 * count + 1)
        before = 0
        for id in ids:
            self._next[before] = id
            self._previous[id] = before
            before = id
        self._next[before] = 0
        self._previous[0] = before
        self._best: list[int] = []
        self._best_state: State = self._start

    def run(self, steps_max: int) -> Verdict:
        """Search until an order is found, there is none, or the bound is met."""
        operations, following = self._operations, self._next
        count = len(operations)
        state: State = self._start
        done, left = 0, self._known
        visited: set[tuple[int, State]] = set()
        stack: list[tuple[int, State]] = []
        entry = following[0]
        steps = 0
        while left:
            steps += 1
            if steps > steps_max:
                return Verdict(True, decided=False)
            if 0 < entry <= count:
                operation = operations[entry - 1]
                after = operation.step(state)
                mark = done | 1 << entry
                if after is not None and (mark, after) not in visited:
                    visited.add((mark, after))
                    stack.append((entry, state))
                    state, done = after, mark
                    left -= operation.known
                    self._lift(entry)
                    if len(stack) > len(self._best):
                        self._best = [one for one, _ in stack]
                        self._best_state = state
                    entry = following[0]
                    continue
                entry = following[entry]
                continue
            # A return (or the end): what returned must have been lifted before.
            if not stack:
                return Verdict(False, text=self._counter_example())
            last, state = stack.pop()
            done &= ~(1 << last)
            left += operations[last - 1].known
            self._unlift(last)
            entry = following[last]
        return Verdict(True)

    def _lift(self, call: int) -> None:
        self._remove(call)
        if self._operations[call - 1].known:
            self._remove(call + len(self._operations))

    def _unlift(self, call: int) -> None:
        if self._operations[call - 1].known:
            self._insert(call + len(self._operations))
        self._insert(call)

    def _remove(self, id: int) -> None:
        before, behind = self._previous[id], self._next[id]
        self._next[before] = behind
        self._previous[behind] = before

    def _insert(self, id: int) -> None:
        self._next[self._previous[id]] = id
        self._previous[self._next[id]] = id

    def _counter_example(self) -> str:
        """The longest order that worked, and what fits nowhere behind it."""
        operations = self._operations
        done = set(self._best)
        rest = [
            operations[number].op
            for number in range(len(operations))
            if number + 1 not in done
        ]
        rest.sort(key=lambda one: one.end)
        lines = ["the longest explanation ends with:"]
        lines += ["  " + operations[id - 1].op.text() for id in self._best[-8:]]
        state = ", ".join(
            f"{key.decode()}={_show(value)}"
            for key, value in zip(self._keys, self._best_state, strict=True)
        )
        lines.append(f"which leaves {state}; nothing explains what comes then:")
        lines += ["  " + one.text() for one in rest[:6]]
        return "\n".join(lines)

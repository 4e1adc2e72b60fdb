"""A simulated disk: deterministic, crashable, able to fail on demand.

``SimulatedFiles`` has the methods of the file port of a log (``revstore_wal.files``)
and keeps two images of everything: the *live* one, which every call sees, and the
*durable* one, which is what a power cut leaves.

What becomes durable, and when:

1. Content and length of a file: by ``fdatasync`` of it. Before that each sector of 512
   bytes that was written may or may not reach the disk, each for itself and in any
   order; a sector is never half written. The same holds for a new length.
2. Names (create, rename, remove, make_dir): by ``fsync_dir`` of the directory. Before
   that a crash keeps the first so many of a directory's changes and loses the rest. A
   rename is one change. The content of a file that was synced under a name that is lost
   is lost with it.
3. After a failed ``fdatasync`` the sectors it should have written are never written,
   and the next call reports success, as Linux does.

A crash is ``crash(random)``: the live image becomes what a power cut could leave, all
handles and locks are gone. ``crashed(random)`` gives that as a new disk and leaves this
one as it is. ``before`` is called before each operation that changes anything, so a
test can look at (or raise, or cut the power) between any two of them::

    files = SimulatedFiles()
    files.before = lambda operation: check(files.crashed(random))
    files.fail("fdatasync", count=2, code=errno.EIO)      # the second from now on

It is safe to use from several threads; hooks run outside the disk's own lock, in the
thread that called.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from revstore.errors import LockedError

SECTOR_BYTES = 512


class Operation(msgspec.Struct, frozen=True):
    """One call that changes the disk, in the order of the calls."""

    number: int
    kind: str
    """The name of the method."""
    path: str
    offset: int = 0
    size: int = 0


class PowerCut(Exception):  # noqa: N818 - an event, not an error
    """For hooks: stops whoever uses the disk, at the place where the power is cut."""


class _Inode:
    """One file: live content, durable content and which sectors differ."""

    def __init__(self) -> None:
        self.live = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()

    def write(self, data: bytes, offset: int) -> None:
        if len(self.live) < offset:
            self.live.extend(bytes(offset - len(self.live)))
        self.live[offset : offset + len(data)] = data
        first = offset // SECTOR_BYTES
        last = (offset + len(data) - 1) // SECTOR_BYTES
        self.dirty.update(range(first, last + 1))

    def resize(self, size: int) -> None:
        if size < len(self.live):
            last = len(self.live) // SECTOR_BYTES
            self.dirty.update(range(size // SECTOR_BYTES, last + 1))
            del self.live[size:]
        else:
            self.live.extend(bytes(size - len(self.live)))

    def sync(self) -> None:
        for sector in self.dirty:
            self._copy(sector, self.durable)
        size = len(self.live)
        del self.durable[size:]
        self.durable.extend(bytes(size - len(self.durable)))
        self.dirty.clear()

    def lose(self) -> None:
        """Drop what should have been written: it will never be durable."""
        self.dirty.clear()

    def _copy(self, sector: int, target: bytearray) -> None:
        start = sector * SECTOR_BYTES
        part = self.live[start : start + SECTOR_BYTES]
        if part and len(target) < start + len(part):
            target.extend(bytes(start + len(part) - len(target)))
        target[start : start + len(part)] = part

    def crashed(self, random: Random, keep: float, in_order: bool) -> _Inode:
        """What a power cut leaves: each unsynced sector is kept with ``keep``."""
        after = _Inode()
        content = bytearray(self.durable)
        synced = len(content)
        if len(self.live) < synced and random.random() < keep:
            del content[len(self.live) :]
        for sector in sorted(self.dirty):
            appended = sector * SECTOR_BYTES >= synced
            if not (in_order and appended) and random.random() < keep:
                self._copy(sector, content)
        missing = len(self.live) - len(content)
        if missing > 0 and in_order:
            kept = random.choice((0, missing, random.randint(0, missing)))
            kept = {0.0: 0, 1.0: missing}.get(keep, kept)
            content += self.live[len(content) : len(content) + kept]
        elif missing > 0 and random.random() < keep:
            content.extend(bytes(missing))
        after.live = content
        after.durable = bytearray(content)
        return after

    def copy(self) -> _Inode:
        twin = _Inode()
        twin.live = bytearray(self.live)
        twin.durable = bytearray(self.durable)
        twin.dirty = set(self.dirty)
        return twin


_Names = dict[str, "_Inode | _Directory"]


class _Directory:
    """One directory: live names, durable names, and the changes between them.

    A change maps names to what they stand for from then on, None for nothing.
    """

    def __init__(self) -> None:
        self.live: _Names = {}
        self.durable: _Names = {}
        self.changes: list[dict[str, _Inode | _Directory | None]] = []

    def change(self, change: dict[str, _Inode | _Directory | None]) -> None:
        _apply(self.live, change)
        self.changes.append(change)

    def sync(self) -> None:
        self.durable = dict(self.live)
        self.changes.clear()

    def crashed(self, random: Random, keep: float, in_order: bool) -> _Directory:
        names = dict(self.durable)
        kept = 0
        while kept < len(self.changes) and random.random() < keep:
            kept += 1
        for change in self.changes[:kept]:
            _apply(names, change)
        after = _Directory()
        after.live = {
            name: node.crashed(random, keep, in_order)
            for name, node in sorted(names.items())
        }
        after.durable = dict(after.live)
        return after


def _apply(names: _Names, change: dict[str, _Inode | _Directory | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class _Fault(msgspec.Struct):
    """An error to come: at the ``count``-th operation of a kind from now."""

    kind: str
    count: int
    code: int
    path_part: str
    for_ever: bool


class SimulatedFiles:
    """The file port on a simulated disk; see the head of this file."""

    def __init__(self) -> None:
        self._root = _Directory()
        self._handles: dict[int, tuple[Path, _Inode]] = {}
        self._next_handle = 3
        self._locks: dict[int, _Inode] = {}
        self._faults: list[_Fault] = []
        self._mutex = threading.Lock()
        self._operations = 0
        self.before: Callable[[Operation], None] | None = None
        """Called before each operation that changes the disk; may raise."""
        self.trace: list[Operation] | None = None
        """If it is a list, each operation that changes the disk is appended."""

    # Faults and crashes.

    def fail(
        self,
        kind: str,
        count: int = 1,
        code: int = errno.EIO,
        path_part: str = "",
        for_ever: bool = False,
    ) -> None:
        """Let the ``count``-th operation of a kind from now fail with an errno.

        Only operations on paths that contain ``path_part`` count. With ``for_ever``
        all behind it fail too. Raises: nothing.
        """
        with self._mutex:
            self._faults.append(_Fault(kind, count, code, path_part, for_ever))

    def heal(self) -> None:
        """Take back all faults. Raises: nothing."""
        with self._mutex:
            self._faults.clear()

    def crash(self, random: Random, keep: float | None = None) -> None:
        """Cut the power: keep what is durable and, by chance, some of what is not.

        ``keep`` is the chance of each unsynced sector and name; None draws it: nothing,
        everything or anything between. Handles and locks are gone. Raises: nothing.
        """
        with self._mutex:
            chance = _chance(random, keep)
            self._root = self._root.crashed(random, chance, in_order=False)
            self._handles.clear()
            self._locks.clear()

    def crashed(
        self, random: Random, keep: float | None = None, in_order: bool = False
    ) -> SimulatedFiles:
        """A new disk as a power cut could leave this one.

        ``in_order``: what was appended behind the durable end of a file is kept up to
        some byte, as by file systems that write data before the new length.

        Raises: nothing.
        """
        after = SimulatedFiles()
        with self._mutex:
            chance = _chance(random, keep)
            after._root = self._root.crashed(random, chance, in_order)
        return after

    def kill(self) -> None:
        """End the process, not the power: handles and locks are gone, data is not.

        Raises: nothing.
        """
        with self._mutex:
            self._handles.clear()
            self._locks.clear()

    # Looking at the disk from outside.

    def content(self, path: Path) -> bytes:
        """Live content of a file. Raises: OSError."""
        with self._mutex:
            return bytes(self._file(path).live)

    def is_dir(self, path: Path) -> bool:
        """Whether there is a directory. Raises: nothing."""
        with self._mutex:
            return isinstance(self._find(path), _Directory)

    def replace(self, path: Path, content: bytes) -> None:
        """Put content under a path, durably, as damage would. Raises: OSError."""
        with self._mutex:
            node = self._file(path)
            node.live = bytearray(content)
            node.durable = bytearray(content)
            node.dirty.clear()

    def dump(self, directory: Path, target: Path) -> None:
        """Write all below a directory to a real one, made new. Raises: OSError."""
        with self._mutex:
            _dump(self._dir(directory), target)

    def operation_count(self) -> int:
        """How many operations have changed the disk. Raises: nothing."""
        return self._operations

    # The file port.

    def make_dir(self, directory: Path) -> None:
        with self._mutex:
            if isinstance(self._find(directory), _Directory):
                return
        self._begin("make_dir", directory)
        with self._mutex:
            parent = self._dir(directory.parent)
            if directory.name in parent.live:
                raise _os_error(errno.ENOTDIR, directory)
            parent.change({directory.name: _Directory()})

    def listdir(self, directory: Path) -> list[str]:
        with self._mutex:
            return sorted(self._dir(directory).live)

    def open(self, path: Path, create: bool = False) -> int:
        if create:
            self._begin("open", path)
        with self._mutex:
            parent = self._dir(path.parent)
            node = parent.live.get(path.name)
            if create:
                if node is not None:
                    raise _os_error(errno.EEXIST, path)
                node = _Inode()
                parent.change({path.name: node})
            if not isinstance(node, _Inode):
                raise _os_error(errno.ENOENT, path)
            return self._make_handle(path, node)

    def close(self, handle: int) -> None:
        with self._mutex:
            self._locks.pop(handle, None)
            if self._handles.pop(handle, None) is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def size(self, handle: int) -> int:
        with self._mutex:
            return len(self._inode(handle).live)

    def read(self, handle: int, size: int, offset: int) -> bytes:
        with self._mutex:
            return bytes(self._inode(handle).live[offset : offset + size])

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        self._begin("pwrite", self._path(handle), offset, len(data))
        with self._mutex:
            self._inode(handle).write(data, offset)

    def fdatasync(self, handle: int) -> None:
        try:
            self._begin("fdatasync", self._path(handle))
        except OSError:
            with self._mutex:
                if handle in self._handles:
                    self._inode(handle).lose()
            raise
        with self._mutex:
            self._inode(handle).sync()

    def fallocate(self, handle: int, size: int) -> None:
        self._begin("fallocate", self._path(handle), 0, size)
        with self._mutex:
            node = self._inode(handle)
            if len(node.live) < size:
                node.resize(size)

    def truncate(self, handle: int, size: int) -> None:
        self._begin("truncate", self._path(handle), 0, size)
        with self._mutex:
            self._inode(handle).resize(size)

    def rename(self, source: Path, target: Path) -> None:
        self._begin("rename", target)
        with self._mutex:
            node = self._file(source)
            if source.parent != target.parent:
                raise _os_error(errno.EXDEV, target)
            self._dir(target.parent).change({source.name: None, target.name: node})

    def remove(self, path: Path) -> None:
        self._begin("remove", path)
        with self._mutex:
            self._file(path)
            self._dir(path.parent).change({path.name: None})

    def fsync_dir(self, directory: Path) -> None:
        self._begin("fsync_dir", directory)
        with self._mutex:
            self._dir(directory).sync()

    def lock(self, path: Path) -> int:
        with self._mutex:
            parent = self._dir(path.parent)
            node = parent.live.get(path.name)
            if node is None:
                node = _Inode()
                parent.change({path.name: node})
            if not isinstance(node, _Inode):
                raise _os_error(errno.EISDIR, path)
            if any(held is node for held in self._locks.values()):
                raise LockedError(f"{path.parent} is open elsewhere")
            handle = self._make_handle(path, node)
            self._locks[handle] = node
            return handle

    # Helpers; the callers of those below hold the mutex, except that of _begin.

    def _begin(self, kind: str, path: Path, offset: int = 0, size: int = 0) -> None:
        """Count an operation, call the hook, fail if that was asked for."""
        with self._mutex:
            self._operations += 1
            operation = Operation(self._operations, kind, str(path), offset, size)
            if self.trace is not None:
                self.trace.append(operation)
        if self.before is not None:
            self.before(operation)
        with self._mutex:
            for fault in self._faults:
                if fault.kind != kind or fault.path_part not in str(path):
                    continue
                fault.count -= 1
                if fault.count == 0 or (fault.for_ever and fault.count < 0):
                    raise _os_error(fault.code, path)

    def _path(self, handle: int) -> Path:
        with self._mutex:
            if handle not in self._handles:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return self._handles[handle][0]

    def _make_handle(self, path: Path, node: _Inode) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = (path, node)
        return self._next_handle

    def _inode(self, handle: int) -> _Inode:
        if handle not in self._handles:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._handles[handle][1]

    def _find(self, path: Path) -> _Inode | _Directory | None:
        node: _Inode | _Directory | None = self._root
        for name in _parts(path):
            if not isinstance(node, _Directory):
                return None
            node = node.live.get(name)
        return node

    def _dir(self, path: Path) -> _Directory:
        node = self._find(path)
        if not isinstance(node, _Directory):
            raise _os_error(errno.ENOENT, path)
        return node

    def _file(self, path: Path) -> _Inode:
        node = self._find(path)
        if not isinstance(node, _Inode):
            raise _os_error(errno.ENOENT, path)
        return node


def _dump(node: _Directory, target: Path) -> None:
    target.mkdir()
    for name, child in node.live.items():
        if isinstance(child, _Directory):
            _dump(child, target / name)
        else:
            (target / name).write_bytes(child.live)


def _parts(path: Path) -> tuple[str, ...]:
    return tuple(part for part in path.parts if part != path.anchor)


def _chance(random: Random, keep: float | None) -> float:
    if keep is not None:
        return keep
    return random.choice((0.0, 1.0, 0.5, 0.9, random.random()))


def _os_error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))

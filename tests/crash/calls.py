"""The system calls of a process, recorded by strace and replayed on a simulated disk.

What a process asked the disk for is all in its calls, whatever library made them, so
the files can be put together as they were at any moment - and as a power cut would have
left them, since ``SimulatedFiles`` knows what was synced.

Approximations: a call that another thread's interrupted counts when it returned, so a
sync may cover a write that came while it ran. What goes through a writable mapping is
not seen: no engine here has one, but for LMDB's lock file, which is not part of the
data.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from shutil import which

import msgspec

from revstore_conformance.files import SimulatedFiles

REPOSITORY = Path(__file__).resolve().parents[2]
STRACE = which("strace")
TRACED = (
    "openat,close,lseek,write,pwrite64,writev,pwritev,fsync,fdatasync,ftruncate,"
    "fallocate,mkdir,rename,unlink,unlinkat,renameat,renameat2,mkdirat,link,symlink,"
    "open,creat,truncate,dup,dup2,dup3,copy_file_range,sendfile,pwritev2,rmdir"
)
STRING_MAX = 1 << 24
_LINE = re.compile(r"(\d+) +(.*)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


class Call(msgspec.Struct, frozen=True):
    """One call that succeeded."""

    name: str
    args: str
    result: int

    def strings(self) -> list[bytes]:
        """The strings among the arguments, in order."""
        found = []
        for text, dots in _STRING.findall(self.args):
            assert not dots, "strace cut a string"
            found.append(bytes.fromhex(text.replace("\\x", "")))
        return found

    def numbers(self) -> list[int]:
        """The numbers among the arguments, strings and structures left out."""
        rest = re.sub(r"\[.*\]", "", _STRING.sub("", self.args))
        parts = (part.strip() for part in rest.split(","))
        return [int(part) for part in parts if re.fullmatch(r"-?\d+", part)]


@cache
def why_not() -> str:
    """Why calls cannot be recorded here; empty if they can."""
    if STRACE is None:
        return "strace is not installed (Debian package strace)"
    tried = subprocess.run([STRACE, "-o", "/dev/null", "true"], capture_output=True)
    return "" if tried.returncode == 0 else "strace may not trace processes here"


def record(arguments: list[str], trace: Path) -> None:
    """Run ``python -m`` with arguments and keep its calls. Raises: CalledProcessError."""
    assert STRACE is not None
    options = ["-f", "-xx", "-s", str(STRING_MAX), "-e", f"trace={TRACED}", "-e"]
    command = [STRACE, *options, "signal=none", "-o", str(trace), sys.executable, "-m"]
    subprocess.run(
        [*command, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=240,
    )


def calls_of(trace: Path) -> Iterator[Call]:
    """The calls of a recording that succeeded, in the order of their returns."""
    begun: dict[str, str] = {}
    with trace.open() as lines:
        for line in lines:
            match = _LINE.match(line)
            assert match is not None, line[:200]
            process, text = match.groups()
            if text.endswith(_UNFINISHED):
                begun[process] = text.removesuffix(_UNFINISHED)
                continue
            resumed = _RESUMED.match(text)
            if resumed is not None:
                text = begun.pop(process) + resumed.group(1)
            call = _CALL.match(text)
            if call is not None and int(call.group(3)) >= 0:
                yield Call(call.group(1), call.group(2), int(call.group(3)))


class _Open:
    """An open file, or directory, below the root."""

    def __init__(self, path: Path, handle: int, end: int) -> None:
        self.path = path
        self.handle = handle
        """-1 for a directory."""
        self.position = end


class Replay:
    """Calls on files below ``root``, made again on a simulated disk."""

    def __init__(self, root: Path) -> None:
        self.files = SimulatedFiles()
        self._root = root
        self._open: dict[int, _Open] = {}
        self.said = bytearray()
        """What was written to the standard output so far."""
        current = Path("/")
        for part in root.parts[1:]:
            self.files.make_dir(current / part)
            self.files.fsync_dir(current)
            current = current / part

    def make(self, call: Call) -> None:
        """Make one call. Raises: AssertionError for one that is not understood."""
        method = getattr(self, "_" + call.name, None)
        if method is not None:
            method(call)
            return
        paths = [Path(text.decode(errors="replace")) for text in call.strings()]
        inside = any(self._inside(path) for path in paths)
        touched = call.numbers()[:1] and call.numbers()[0] in self._open
        assert not inside, f"{call.name} below {self._root} is not understood"
        assert not touched, f"{call.name} of an open file is not understood"

    def _inside(self, path: Path) -> bool:
        return path.is_relative_to(self._root)

    def _path(self, call: Call) -> Path | None:
        path = Path(call.strings()[0].decode())
        return path if self._inside(path) else None

    def _file(self, call: Call) -> _Open | None:
        return self._open.get(call.numbers()[0])

    def _openat(self, call: Call) -> None:
        self._open.pop(call.result, None)
        path = self._path(call)
        if path is None:
            return
        if self.files.is_dir(path):
            self._open[call.result] = _Open(path, -1, 0)
            return
        exists = path.name in self.files.listdir(path.parent)
        handle = self.files.open(path, create=not exists)
        assert "O_DSYNC" not in call.args or "O_APPEND" not in call.args, call
        if "O_TRUNC" in call.args and exists:
            self.files.truncate(handle, 0)
        end = self.files.size(handle) if "O_APPEND" in call.args else 0
        self._open[call.result] = _Open(path, handle, end)

    def _close(self, call: Call) -> None:
        found = self._open.pop(call.numbers()[0], None)
        if found is not None and found.handle >= 0:
            self.files.close(found.handle)

    def _lseek(self, call: Call) -> None:
        found = self._file(call)
        if found is not None:
            found.position = call.result

    def _write(self, call: Call) -> None:
        data = b"".join(call.strings())[: call.result]
        if call.numbers()[0] == 1:
            self.said += data
            return
        found = self._file(call)
        if found is not None:
            self.files.pwrite(found.handle, data, found.position)
            found.position += len(data)

    _writev = _write

    def _pwrite64(self, call: Call) -> None:
        found = self._file(call)
        if found is not None:
            data = b"".join(call.strings())[: call.result]
            self.files.pwrite(found.handle, data, call.numbers()[-1])

    _pwritev = _pwrite64

    def _fdatasync(self, call: Call) -> None:
        found = self._file(call)
        if found is None:
            return
        if found.handle < 0:
            self.files.fsync_dir(found.path)
        else:
            self.files.fdatasync(found.handle)

    _fsync = _fdatasync

    def _ftruncate(self, call: Call) -> None:
        found = self._file(call)
        if found is not None:
            self.files.truncate(found.handle, call.numbers()[1])

    def _fallocate(self, call: Call) -> None:
        found = self._file(call)
        if found is not None and "KEEP_SIZE" not in call.args:
            self.files.fallocate(found.handle, sum(call.numbers()[-2:]))

    def _mkdir(self, call: Call) -> None:
        path = self._path(call)
        if path is not None:
            self.files.make_dir(path)

    def _rename(self, call: Call) -> None:
        path = self._path(call)
        if path is not None:
            self.files.rename(path, Path(call.strings()[1].decode()))

    def _unlink(self, call: Call) -> None:
        path = self._path(call)
        if path is not None:
            self.files.remove(path)

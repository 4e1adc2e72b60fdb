"""Running etcdctl, and what differs between two servers without meaning anything."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

import msgspec
from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from tests.support.process import wait_for

ETCDCTL = shutil.which("etcdctl")
NO_ETCDCTL = "no etcdctl on this machine (Debian: apt-get install etcd-client)"
RUN_S = 30.0
ENV = {**os.environ, "ETCDCTL_API": "3"}

MASKS = (
    (r"raft_term\":\d+", 'raft_term":TERM'),
    (r"\"RaftTerm\" : \d+", '"RaftTerm" : TERM'),
    (r"took = [^\s]+", "took = TIME"),
    (r"\"took\":\"[^\"]*\"", '"took":"TIME"'),
    (r"took too long \([^)]*\)", "took too long (TIME)"),
    (r"remaining\(\d+s\)", "remaining(SECONDS)"),
    (r"\"ttl\":\d+,\"granted", '"ttl":SECONDS,"granted'),
)
"""Patterns of what is never equal, and what stands for them."""

STATUS_COLUMNS = frozenset(
    {"VERSION", "DB SIZE", "RAFT TERM", "RAFT INDEX", "RAFT APPLIED INDEX"}
)
"""Columns of ``endpoint status -w table`` that are facts of the server at hand."""

STATUS_FIELDS = (
    (r"\"(version)\":\"[^\"]*\"", r'"\1":"X"'),
    (r"\"(dbSize|raftIndex|raftTerm|raftAppliedIndex|dbSizeInUse)\":\d+", r'"\1":X'),
)


class Outcome(msgspec.Struct, frozen=True):
    """What a command came to."""

    status: int
    out: str
    errors: str
    """The lines of stderr that say why; log lines are left out."""


class Side:
    """One server, and the texts that only it has."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.known: dict[str, str] = {address: "ADDRESS"}
        """What to mask -> what stands for it."""

    def command(self, *args: str, **others: str) -> list[str]:
        """A command line; ``{name}`` in an argument is what ``remember`` was given."""
        assert ETCDCTL is not None, NO_ETCDCTL
        values = {mask.lower(): value for value, mask in self.known.items()} | others
        filled = [_fill(arg, values) for arg in args]
        return [
            ETCDCTL,
            f"--endpoints={self.address}",
            "--command-timeout=15s",
            "--dial-timeout=10s",
            *filled,
        ]

    def remember(self, mask: str, value: str) -> None:
        """Let ``mask`` stand for a value of this side."""
        self.known[value] = mask

    def mask(self, text: str) -> str:
        """The text without what only this side has."""
        for value in sorted(self.known, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", self.known[value], text)
        for pattern, stand_in in MASKS:
            text = re.sub(pattern, stand_in, text)
        return text

    def outcome(self, status: int, out: bytes, err: bytes) -> Outcome:
        """What a process left behind, masked."""
        said = err.decode(errors="backslashreplace").splitlines()
        kept = [line for line in said if line and not line.startswith("{")]
        shown = out.decode(errors="backslashreplace")
        return Outcome(status, self.mask(shown), self.mask("\n".join(kept)))


class Running:
    """A command that goes on until it is told to stop; a context manager."""

    def __init__(self, side: Side, args: tuple[str, ...]) -> None:
        self._side = side
        with ExitStack() as stack:
            self._out = stack.enter_context(tempfile.TemporaryFile())
            self._err = stack.enter_context(tempfile.TemporaryFile())
            self._files = stack.pop_all()
        self._process = subprocess.Popen(
            side.command(*args),
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
            env=ENV,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=RUN_S)
        self._files.close()

    def type(self, line: str) -> None:
        """Send a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def wait_for(self, text: str) -> None:
        """Wait until its output has this. Raises: TimeoutError."""
        wait_for(
            lambda: text in self.output() or None, f"{text!r} of {self._side.name}"
        )

    def output(self) -> str:
        """What it wrote so far, not masked."""
        size = os.fstat(self._out.fileno()).st_size
        return os.pread(self._out.fileno(), size, 0).decode(errors="backslashreplace")

    def stop(self) -> Outcome:
        """Interrupt it as a user does. Raises: TimeoutExpired if it does not end."""
        self._process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> Outcome:
        """Wait until it ends by itself. Raises: TimeoutExpired if it does not."""
        self._process.wait(RUN_S)
        size = os.fstat(self._err.fileno()).st_size
        err = os.pread(self._err.fileno(), size, 0)
        return self._side.outcome(self._process.returncode, self.output().encode(), err)


def start(side: Side, args: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start a command that ends by itself."""
    return subprocess.Popen(
        side.command(*args),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENV,
    )


def finish(side: Side, process: subprocess.Popen[bytes], stdin: bytes) -> Outcome:
    """What the command came to. Raises: TimeoutExpired if it does not end."""
    try:
        out, err = process.communicate(stdin, RUN_S)
    finally:
        process.kill()
    return side.outcome(process.returncode, out, err)


def status_table(text: str) -> list[list[str]]:
    """The cells of a table of endpoints that are comparable, row by row."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    kept = [at for at, name in enumerate(rows[0]) if name not in STATUS_COLUMNS]
    return [[row[at] for at in kept] for row in rows]


def table(text: str) -> list[list[str]]:
    """The cells of a table, whatever their width."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def status_json(text: str) -> str:
    """A status without the facts of the server at hand."""
    for pattern, stand_in in STATUS_FIELDS:
        text = re.sub(pattern, stand_in, text)
    return text


def message(kind: type[Message], raw: bytes) -> str:
    """A protobuf message of ``-w protobuf`` without what only one side has.

    Raises:
        AssertionError: it is no such message.
    """
    found = kind()
    try:
        found.ParseFromString(raw)
    except DecodeError as exc:
        raise AssertionError(f"no {kind.__name__}: {raw!r}") from exc
    header = getattr(found, "header", None)
    if header is not None:
        header.ClearField("cluster_id")
        header.ClearField("member_id")
        header.ClearField("raft_term")
    return text_format.MessageToString(found)


def _fill(arg: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        arg = arg.replace("{" + name + "}", value)
    return arg

"""A cluster of ``revstore serve`` processes on this machine.

Each member has a loopback address of its own (all of 127.0.0.0/8 is this machine), so
the ports can be the usual ones and clusters do not meet.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.clients.etcdctl import ENV, ETCDCTL, NO_ETCDCTL
from tests.support.process import READY_S, wait_for
from tests.support.server import SEGMENT_BYTES, ServerProcess, ready_line

HEARTBEAT_MS = 50
ELECTION_MS = 500
_hosts = itertools.count(1)


def free_host() -> str:
    """A loopback address that nobody in this run of the tests has."""
    number = next(_hosts)
    process = os.getpid()
    return f"127.{64 + (process >> 8) % 128}.{process & 0xFF}.{number % 254 + 1}"


class MemberProcess(ServerProcess):
    """One member."""

    def __init__(self, name: str, path: Path, backend: str, host: str) -> None:
        super().__init__((), path / f"{name}.log", None)
        self.name = name
        self.host = host
        self.prefix: tuple[str, ...] = ()
        """What the command begins with, such as a change of the network namespace."""
        self.backend = backend
        self.data_dir = path / name
        self.peer_url = f"http://{self.host}:2380"
        self.client_url = f"http://{self.host}:2379"
        self.tcp_url = f"tcp://{self.host}:2378"

    @property
    def member_id(self) -> str:
        """The id as the member said it, in hexadecimal."""
        return str(self.ready["member_id"])


class Cluster:
    """Members by name; a context manager that kills those that run."""

    def __init__(
        self,
        path: Path,
        backends: Sequence[str] = ("lmdb", "rocksdb", "lmdb"),
        flags: Sequence[str] = (),
        hosts: Callable[[], str] = free_host,
    ) -> None:
        """``hosts`` gives the address of each member, also of one that joins later."""
        self.path = path
        self.hosts = hosts
        self.flags = tuple(flags)
        self.members: dict[str, MemberProcess] = {}
        for name, backend in zip("abcdefg", backends, strict=False):
            self.members[name] = MemberProcess(name, path, backend, hosts())
        for member in self.members.values():
            member.command = self.command(member)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            member.kill()

    def initial_cluster(self) -> str:
        """The value of ``--initial-cluster`` for all members known here."""
        return ",".join(f"{m.name}={m.peer_url}" for m in self.members.values())

    def command(self, member: MemberProcess, *flags: str) -> list[str]:
        """How a member is started; ``flags`` come last and win."""
        return [
            *member.prefix,
            str(Path(sys.executable).with_name("revstore")),
            "serve",
            f"--name={member.name}",
            f"--data-dir={member.data_dir}",
            f"--backend={member.backend}",
            f"--listen-client-urls={member.client_url},{member.tcp_url}",
            f"--listen-peer-urls={member.peer_url}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            f"--initial-cluster={self.initial_cluster()}",
            f"--heartbeat-interval={HEARTBEAT_MS}",
            f"--election-timeout={ELECTION_MS}",
            f"--set=segment.segment_bytes={SEGMENT_BYTES}",
            *self.flags,
            *flags,
        ]

    def start(self) -> None:
        """Start all and wait until each serves clients."""
        for member in self.members.values():
            member.spawn()
        for member in self.members.values():
            self.await_ready(member)

    def await_ready(self, member: MemberProcess) -> None:
        """Wait until a spawned member serves. Raises: as ``wait_for_log``."""
        member.ready = member.wait_for_log(ready_line, READY_S)
        member.url = member.client_url

    def add(self, name: str, backend: str, *, learner: bool) -> MemberProcess:
        """Add a member to the running cluster and start it."""
        member = MemberProcess(name, self.path, backend, self.hosts())
        options = ["--learner"] if learner else []
        others = list(self.members.values())
        self.ctl(
            "member", "add", name, f"--peer-urls={member.peer_url}", *options, on=others
        )
        self.members[name] = member
        member.command = self.command(member, "--initial-cluster-state=existing")
        member.start()
        return member

    def promote(
        self, learner: MemberProcess, through: MemberProcess | None = None
    ) -> None:
        """Make a learner that is in sync a voter; ask ``through``, or the leader.

        Raises:
            AssertionError: the promotion was refused.
        """

        def promoted() -> bool:
            asked = through or self.leader()
            listed = self.ctl("member", "list", on=asked)
            if "true" in listed:
                self.ctl("member", "promote", learner.member_id, on=asked)
            return "true" not in listed

        wait_for(promoted, "the promotion")

    def ctl(
        self,
        *words: str,
        on: Sequence[MemberProcess] | MemberProcess | None = None,
        fails: bool = False,
    ) -> str:
        """What etcdctl says, with the endpoints of ``on`` or of all members.

        Raises:
            AssertionError: it failed, or with ``fails`` it did not.
        """
        assert ETCDCTL is not None, NO_ETCDCTL
        chosen = list(self.members.values()) if on is None else on
        if isinstance(chosen, MemberProcess):
            chosen = [chosen]
        endpoints = ",".join(member.client_url for member in chosen)
        command = [ETCDCTL, f"--endpoints={endpoints}", "--command-timeout=15s", *words]
        done = subprocess.run(
            command, env=ENV, capture_output=True, text=True, timeout=60, check=False
        )
        text = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{words}: {text}"
        return text if fails else done.stdout

    def leader(self) -> MemberProcess:
        """The member that leads, once one does."""

        def look() -> MemberProcess | None:
            running = [m for m in self.members.values() if m.returncode is None]
            for member in running:
                status = self.ctl("endpoint", "status", on=member)
                if status.split(", ")[4] == "true":
                    return member
            return None

        return wait_for(look, "a leader")

    def followers(self) -> list[MemberProcess]:
        """The running members that do not lead."""
        leader = self.leader()
        running = [m for m in self.members.values() if m.returncode is None]
        return [member for member in running if member is not leader]

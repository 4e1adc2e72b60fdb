"""How many entries a second the Raft core commits, without disk and network.

``python -m revstore_bench.raft_core`` runs three members in one thread through the
contract of consensus plugins: proposals in batches, messages handed over at once, and
every batch reported durable as soon as it is handed out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from random import Random
from time import perf_counter

import msgspec

from revstore.interfaces.consensus import ConsensusStart, Message, Role
from revstore.types import ConfState, Entry, HardState
from revstore_raft.machine import RaftConsensus


class MemoryLog:
    """A log in memory that forgets what is applied everywhere."""

    def __init__(self) -> None:
        self._first = 1
        self._entries: list[Entry] = []
        self._base_term = 0

    def first_index(self) -> int:
        """See ``LogReader``."""
        return self._first

    def last_index(self) -> int:
        """See ``LogReader``."""
        return self._first + len(self._entries) - 1

    def term(self, index: int) -> int | None:
        """See ``LogReader``."""
        position = index - self._first
        if position == -1:
            return self._base_term
        if 0 <= position < len(self._entries):
            return self._entries[position].term
        return None

    def read(self, lo: int, hi: int, bytes_max: int = 0) -> list[Entry]:
        """See ``LogReader``."""
        return self._entries[lo - self._first : hi - self._first]

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Add entries, replacing what is at their indexes."""
        position = entries[0].index - self._first
        if position < len(self._entries):
            del self._entries[position:]
        self._entries.extend(entries)

    def purge(self, index: int) -> None:
        """Forget entries up to ``index``."""
        count = index + 1 - self._first
        if count > 0:
            self._base_term = self._entries[count - 1].term
            del self._entries[:count]
            self._first = index + 1


class Member:
    """A machine and what it needs."""

    def __init__(self, id: int, voters: tuple[int, ...]) -> None:
        self.id = id
        self.log = MemoryLog()
        self.committed = 0
        self.machine = RaftConsensus(
            ConsensusStart(
                id=id,
                hard_state=HardState(),
                conf_state=ConfState(voters=voters),
                applied=0,
                log=self.log,
                random=Random(id),
            )
        )

    def work(self) -> list[Message]:
        """Do everything there is to do; returns what leaves."""
        machine = self.machine
        out: list[Message] = []
        while machine.has_ready():
            ready = machine.ready()
            out += ready.messages
            persist = ready.persist
            if persist is not None:
                if persist.entries:
                    self.log.append(persist.entries)
                machine.persisted(persist.sequence)
            out += ready.messages_after_persist
            if ready.committed:
                last = ready.committed[-1].index
                self.committed = last
                machine.applied(last)
                if last - self.log.first_index() > 20_000:
                    self.log.purge(last - 10_000)
        return out


class Result(msgspec.Struct, frozen=True):
    """What was measured."""

    members: int
    batch: int
    entries: int
    entries_per_second: float


def run(members: int, batch: int, entries: int, payload_bytes: int = 64) -> Result:
    """Commit ``entries`` on every member once; one measurement."""
    ids = tuple(range(1, members + 1))
    cluster = {id: Member(id, ids) for id in ids}

    def settle() -> None:
        mail = [message for member in cluster.values() for message in member.work()]
        while mail:
            touched: set[int] = set()
            for message in mail:
                cluster[message.to].machine.step(message)
                touched.add(message.to)
            mail = [message for id in touched for message in cluster[id].work()]

    leader = cluster[1]
    leader.machine.campaign()
    settle()
    if leader.machine.status().role is not Role.LEADER:
        raise RuntimeError("member 1 was not elected")
    payloads = [bytes(payload_bytes)] * batch
    start_index = leader.committed
    begin = perf_counter()
    for _ in range(entries // batch):
        leader.machine.propose(payloads)
        settle()
    # The followers learn the last commit index with the next message.
    leader.machine.propose([b""])
    settle()
    took = perf_counter() - begin
    done = min(member.committed for member in cluster.values()) - start_index
    if done < entries // batch * batch:
        raise RuntimeError(f"only {done} of {entries} entries were committed")
    return Result(members, batch, done, done / took)


def main(arguments: list[str] | None = None) -> int:
    """Print the median of some runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(arguments)
    rates = [
        run(options.members, options.batch, options.entries).entries_per_second
        for _ in range(options.runs)
    ]
    sys.stdout.write(
        f"raft core: {options.members} members, batches of {options.batch}: "
        f"{statistics.median(rates):,.0f} committed entries/s "
        f"(median of {options.runs}, {min(rates):,.0f} to {max(rates):,.0f})\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A revstore and an etcd that get the same commands and owe the same answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from google.protobuf.message import Message

from tests.clients import etcdctl
from tests.clients.etcdctl import Outcome, Running, Side
from tests.support.etcd import free_ports, start_etcd
from tests.support.server import start_server

DEVIATIONS = {
    "compaction needs root": "so it is since 3.6; 3.4.23 lets any user compact",
    "status needs a user": "so it is in current patches; 3.4.23 tells anybody",
    "members need a user": "so it is since the patches of 2026; 3.4.23 tells anybody",
    "keys of a lease need permission": (
        "they do in current patches (#15814); 3.4.23 shows anybody's keys"
    ),
    "hash needs root": (
        "3.4.23 forgets to translate its error, so its text has another prefix"
    ),
    "snapshot status": (
        "a snapshot is a dump of revstore's own that any backend can take in; "
        "`etcdctl snapshot status` looks for a bbolt file and says there is none"
    ),
}
"""Where etcdctl shows something else than on etcd 3.4.23, and why: the one list."""


class Pair:
    """Runs each command on both sides and insists on the same outcome.

    The revisions of both stay equal because every command goes to both.
    """

    def __init__(self, revstore: Side, etcd: Side) -> None:
        self.revstore = revstore
        self.etcd = etcd
        self.sides = (revstore, etcd)

    def __call__(
        self,
        *args: str,
        stdin: str = "",
        view: Callable[[str], object] | None = None,
    ) -> Outcome:
        """The outcome of a command on revstore, which is that on etcd.

        ``view`` makes of an output what is compared. Raises: AssertionError.
        """
        outcomes = self.both(*args, stdin=stdin)
        self.same(args, outcomes, view)
        return outcomes[0]

    def both(self, *args: str, stdin: str = "") -> tuple[Outcome, Outcome]:
        """The outcomes of a command on revstore and on etcd, whatever they are."""
        running = [etcdctl.start(side, args) for side in self.sides]
        ours, theirs = (
            etcdctl.finish(side, process, stdin.encode())
            for side, process in zip(self.sides, running, strict=True)
        )
        return ours, theirs

    def deviates(self, name: str, *args: str, ours: str, theirs: str) -> None:
        """A command shows ``ours`` on revstore and ``theirs`` on etcd.

        Raises: AssertionError; KeyError if the deviation is not in the list.
        """
        reason = DEVIATIONS[name]
        shown = self.both(*args)
        assert shown[0] != shown[1], (args, "no longer deviates", reason)
        for outcome, text in zip(shown, (ours, theirs), strict=True):
            assert text in outcome.out + outcome.errors, (args, shown, reason)

    def same(
        self,
        args: tuple[str, ...],
        outcomes: Sequence[Outcome],
        view: Callable[[str], object] | None = None,
    ) -> None:
        """Insist that revstore's and etcd's outcome are one. Raises: AssertionError."""
        ours, theirs = outcomes
        seen = [
            (one.status, one.out if view is None else view(one.out), one.errors)
            for one in (ours, theirs)
        ]
        command = " ".join(args)
        assert seen[0] == seen[1], (
            f"etcdctl {command}\nrevstore: {ours}\netcd: {theirs}"
        )

    def ok(
        self, *args: str, stdin: str = "", view: Callable[[str], object] | None = None
    ) -> str:
        """The output of a command that succeeds. Raises: AssertionError."""
        outcome = self(*args, stdin=stdin, view=view)
        assert outcome.status == 0, (args, outcome)
        return outcome.out

    def fails(self, *args: str, stdin: str = "", why: str) -> None:
        """A command fails on both for this reason. Raises: AssertionError."""
        outcome = self(*args, stdin=stdin)
        assert outcome.status != 0, (args, outcome)
        assert why in outcome.errors, (args, outcome)

    def protobuf(self, kind: type[Message], *args: str) -> str:
        """The message of ``-w protobuf``, as text. Raises: AssertionError."""
        texts = []
        for side in self.sides:
            process = etcdctl.start(side, (*args, "-w", "protobuf"))
            out, err = process.communicate(timeout=etcdctl.RUN_S)
            assert process.returncode == 0, err
            texts.append(etcdctl.message(kind, out))
        assert texts[0] == texts[1], args
        return texts[0]

    def capture(self, mask: str, pattern: str, *args: str) -> None:
        """Run a command that shows a value which later ones use as ``{mask}``."""
        running = [etcdctl.start(side, args) for side in self.sides]
        outcomes = []
        for side, process in zip(self.sides, running, strict=True):
            raw = etcdctl.finish(side, process, b"")
            found = re.search(pattern, raw.out)
            assert found, (args, raw)
            side.remember(mask.upper(), found.group(1))
            outcomes.append(
                Outcome(raw.status, side.mask(raw.out), side.mask(raw.errors))
            )
        self.same(args, outcomes)

    def grant(self, mask: str, ttl: int) -> None:
        """Grant a lease that later commands use as ``{mask}``."""
        self.capture(mask, r"lease (\w+) granted", "lease", "grant", str(ttl))
        for side in self.sides:
            lease_id = next(
                v for v, known in side.known.items() if known == mask.upper()
            )
            side.remember(f"{mask.upper()}_NUMBER", str(int(lease_id, 16)))

    @contextmanager
    def running(self, *args: str) -> Iterator[tuple[Running, Running]]:
        """The same command going on on both sides: revstore's, etcd's."""
        with ExitStack() as stack:
            ours, theirs = (
                stack.enter_context(Running(side, args)) for side in self.sides
            )
            yield ours, theirs

    def watched(self, marker: str, *args: str) -> str:
        """What a watch showed up to ``marker``; both sides show the same."""
        with self.running("watch", *args) as sessions:
            outcomes = []
            for session in sessions:
                session.wait_for(marker)
                outcomes.append(session.stop())
        self.same(("watch", *args), outcomes)
        return outcomes[0].out


class Facts(msgspec.Struct):
    """What both sides call by another name."""

    cluster_id: int
    member_id: int


def _facts(side: Side) -> Facts:
    process = etcdctl.start(side, ("member", "list", "-w", "json"))
    outcome = etcdctl.finish(side, process, b"")
    assert outcome.status == 0, outcome
    fields = msgspec.json.decode(
        outcome.out.replace(":TERM", ":0"), type=dict[str, object]
    )
    return msgspec.convert(fields["header"], Facts)


@contextmanager
def serving(backend: str, folder: Path, transport: str = "grpc") -> Iterator[Pair]:
    """A pair of fresh servers."""
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    with (
        start_etcd(folder / "etcd", auth_token="simple", bcrypt_cost=4) as etcd,
        start_server(
            backend,
            folder / "revstore",
            transport=transport,
            name="m",
            bcrypt_cost=4,
            listen_client_urls=client,
            advertise_client_urls=client,
            listen_peer_urls=peer,
            initial_advertise_peer_urls=peer,
            initial_cluster=f"m={peer}",
        ) as revstore,
    ):
        sides = Side("revstore", revstore.address), Side("etcd", etcd.address)
        peers = peer, str(next(f for f in etcd.command if "listen-peer" in f))
        for side, peer_url in zip(sides, peers, strict=True):
            side.remember("PEER", peer_url.rpartition("=")[2].partition("://")[2])
            facts = _facts(side)
            side.remember("CLUSTER", str(facts.cluster_id))
            side.remember("CLUSTER_HEX", f"{facts.cluster_id:x}")
            side.remember("MEMBER", str(facts.member_id))
            side.remember("MEMBER_HEX", f"{facts.member_id:x}")
        yield Pair(*sides)

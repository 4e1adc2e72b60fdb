"""The commands of the dialect.

Rules of this file:

1. A session is one file: one cluster, one membership under test.
2. A command that is refused writes the reason, as part of its output. Only what no
   member may ever do (``InvariantViolation``) ends the replay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from revstore.errors import ConfigError, InvariantViolation, RevstoreError
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    Message,
    MessageType,
    Snapshot,
)
from revstore.types import ConfState, EntryType, SnapshotMeta
from revstore_conformance.scenarios import describe
from revstore_conformance.scenarios.cluster import Cluster, Member, Recipient, Refused
from revstore_conformance.scenarios.pure import MembershipUnderTest, committed, vote
from revstore_conformance.scenarios.script import Directive, ScriptError
from revstore_raft.confcodec import encode_v1, encode_v2
from revstore_raft.config import RaftConfig

ELECTION_TICKS = 3
HEARTBEAT_TICKS = 1
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal", "none")

_STEPS = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}
_TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}
_CONFIG_KEYS = {
    "inflight": "inflight_messages_max",
    "max-committed-size-per-ready": "committed_bytes_max",
    "prevote": "pre_vote",
    "checkquorum": "check_quorum",
    "step-down-on-removal": "step_down_on_removal",
    "max-inflight-bytes": "inflight_bytes_max",
    "max-size-per-msg": "message_bytes_max",
    "max-uncommitted-size": "uncommitted_bytes_max",
    "disable-proposal-forwarding": "forward_proposals",
    "disable-conf-change-validation": "validate_changes",
}
"""Keys of add-nodes that set something in the config."""


def boolean(text: str) -> bool:
    """A truth value as Go reads it.

    Raises:
        Refused: it is none.
    """
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise Refused(f"{text!r} is no truth value")


def parse_steps(text: str) -> list[ConfChangeSingle]:
    """Steps such as ``v1 l2 r3 u4``.

    Raises:
        Refused: one is something else.
    """
    out: list[ConfChangeSingle] = []
    for token in text.split():
        if len(token) < 2:
            raise Refused(f"unknown token {token}")
        kind = _STEPS.get(token[0])
        if kind is None:
            raise Refused(f"unknown input: {token}")
        if not token[1:].isdecimal():
            raise Refused(f"{token[1:]!r} is no member id")
        out.append(ConfChangeSingle(kind, int(token[1:])))
    return out


class Session:
    """What the commands of one file act on."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self._membership = MembershipUnderTest()
        self._commands: dict[str, Callable[[Directive], None]] = {
            "_breakpoint": lambda directive: None,
            "add-nodes": self._add_nodes,
            "campaign": lambda d: self._member(d).node.campaign(),
            "compact": self._compact,
            "deliver-msgs": self._deliver,
            "forget-leader": lambda d: self._member(d).node.forget_leader(),
            "log-level": self._log_level,
            "process-append-thread": self._process_append_thread,
            "process-apply-thread": self._process_apply_thread,
            "process-ready": self._process_ready,
            "propose": self._propose,
            "propose-conf-change": self._propose_change,
            "raft-log": lambda d: self._show_log(self._member(d)),
            "raft-state": self._show_states,
            "read-index": self._read_index,
            "report-snapshot": self._report_snapshot,
            "report-unreachable": self._report_unreachable,
            "send-snapshot": self._send_snapshot,
            "set-randomized-election-timeout": self._set_timeout,
            "stabilize": self._stabilize,
            "status": self._show_status,
            "tick-election": lambda d: self._tick(d, ELECTION_TICKS),
            "tick-heartbeat": lambda d: self._tick(d, HEARTBEAT_TICKS),
            "transfer-leadership": self._transfer,
            "committed": lambda d: self._write(committed(d)),
            "vote": lambda d: self._write(vote(d)),
            "simple": self._change_membership,
            "enter-joint": self._change_membership,
            "leave-joint": self._change_membership,
        }

    def handle(self, directive: Directive) -> str:
        """Run a command; returns its output.

        Raises:
            ScriptError: the command is unknown, or lacks something.
            InvariantViolation: a machine found itself broken.
        """
        command = self._commands.get(directive.command)
        if command is None:
            raise ScriptError(
                f"line {directive.line}: unknown command {directive.command!r}"
            )
        error = ""
        try:
            command(directive)
        except (InvariantViolation, ScriptError):
            raise
        except RevstoreError as exc:
            error = str(exc)
        return self._cluster.output.take() + error or "ok"

    def _write(self, text: str) -> None:
        self._cluster.output.write(text)

    def _member(self, directive: Directive) -> Member:
        return self._cluster.member(directive.node())

    # ---- making members ----

    def _add_nodes(self, directive: Directive) -> None:
        settings: dict[str, int | bool] = {}
        voters: list[int] = []
        learners: list[int] = []
        index, content, asynchronous = 0, b"", False
        for key, text in directive.pairs():
            if key == "voters":
                voters.append(int(text))
            elif key == "learners":
                learners.append(int(text))
            elif key == "index":
                index = int(text)
            elif key == "content":
                content = text.encode()
            elif key == "async-storage-writes":
                asynchronous = boolean(text)
            elif key == "read-only":
                settings["lease_reads"] = _lease_reads(text)
            elif key in _CONFIG_KEYS:
                name = _CONFIG_KEYS[key]
                settings[name] = int(text) if text.isdecimal() else boolean(text)
                if key.startswith("disable-"):
                    settings[name] = not settings[name]
            else:
                raise ScriptError(f"line {directive.line}: unknown key {key!r}")
        conf_state = ConfState(tuple(voters), tuple(learners))
        first = Snapshot(SnapshotMeta(index, 0, conf_state), content)
        if first != Snapshot():
            if index <= 1:
                raise Refused("index must be specified as > 1 due to bootstrap")
            first = Snapshot(SnapshotMeta(index, 1, conf_state), content)
        members = self._cluster.members
        for _ in range(directive.node()):
            config = _config(len(members) + 1, settings)
            members.append(Member(config, first, asynchronous=asynchronous))

    # ---- moving messages and work ----

    def _deliver(self, directive: Directive) -> None:
        kind: MessageType | None = None
        recipients = [Recipient(id) for id in directive.nodes()]
        for key, text in directive.pairs():
            if key == "drop":
                if Recipient(int(text)) in recipients:
                    raise ScriptError(
                        f"line {directive.line}: can't both deliver and drop msgs "
                        f"to {text}"
                    )
                recipients.append(Recipient(int(text), drop=True))
            elif key == "type":
                if text not in describe.MESSAGE_TYPES:
                    raise ScriptError(f"line {directive.line}: no message type {text}")
                kind = describe.MESSAGE_TYPES[text]
        if self._cluster.deliver(recipients, kind) == 0:
            self._write("no messages\n")

    def _process_ready(self, directive: Directive) -> None:
        self._each(directive, "handling Ready", self._cluster.process_ready)

    def _process_append_thread(self, directive: Directive) -> None:
        work = self._cluster.process_append_thread
        self._each(directive, "processing append thread", work)

    def _process_apply_thread(self, directive: Directive) -> None:
        work = self._cluster.process_apply_thread
        self._each(directive, "processing apply thread", work)

    def _each(
        self, directive: Directive, title: str, work: Callable[[int], None]
    ) -> None:
        nodes = directive.nodes()
        for id in nodes:
            if len(nodes) == 1:
                work(id)
                return
            self._write(f"> {id} {title}\n")
            self._cluster.output.indented(partial(work, id))

    def _stabilize(self, directive: Directive) -> None:
        output = self._cluster.output
        before = output.quiet
        try:
            for key, text in directive.pairs():
                if key == "log-level":
                    self._set_level(text)
            every = [member.id for member in self._cluster.members]
            self._cluster.stabilize(directive.nodes() or every)
        finally:
            output.quiet = before

    def _send_snapshot(self, directive: Directive) -> None:
        nodes = directive.nodes()
        if len(nodes) != 2:
            raise ScriptError(f"line {directive.line}: send-snapshot FROM TO")
        source = self._cluster.member(nodes[0])
        message = Message(
            MessageType.SNAP,
            to=nodes[1],
            sender=source.id,
            term=source.node.raft.term,
            snapshot=source.history.newest(),
        )
        self._cluster.messages.append(message)
        self._write(describe.message_text(message))

    # ---- inputs of one member ----

    def _tick(self, directive: Directive, ticks: int) -> None:
        node = self._member(directive).node
        for _ in range(ticks):
            node.tick()

    def _propose(self, directive: Directive) -> None:
        member, data = self._member(directive), directive.positional()[1:]
        if len(data) != 1:
            raise ScriptError(f"line {directive.line}: propose ID DATA")
        member.node.propose(data[0].encode())

    def _propose_change(self, directive: Directive) -> None:
        member = self._member(directive)
        older, transition = False, ConfChangeTransition.AUTO
        for key, text in directive.pairs():
            if key == "v1":
                older = boolean(text)
            elif key == "transition":
                if text not in _TRANSITIONS:
                    raise Refused(f"unknown transition {text}")
                transition = _TRANSITIONS[text]
            else:
                raise Refused(f"unknown command {key}")
        steps = parse_steps(" ".join(directive.input))
        if not older:
            data = encode_v2(ConfChange(tuple(steps), transition))
            member.node.propose_change(EntryType.CONF_CHANGE_V2, data)
            return
        if len(steps) > 1 or transition is not ConfChangeTransition.AUTO:
            raise Refused(
                "v1 conf change can only have one operation and no transition"
            )
        if not steps:
            raise ScriptError(f"line {directive.line}: a v1 change needs a step")
        member.node.propose_change(EntryType.CONF_CHANGE, encode_v1(steps[0]))

    def _compact(self, directive: Directive) -> None:
        member, rest = self._member(directive), directive.positional()[1:]
        if len(rest) != 1:
            raise ScriptError(f"line {directive.line}: compact ID INDEX")
        member.storage.compact(int(rest[0]))
        self._show_log(member)

    def _transfer(self, directive: Directive) -> None:
        source = self._cluster.member(int(directive.value("from")))
        source.node.transfer_leader(int(directive.value("to")))

    def _report_unreachable(self, directive: Directive) -> None:
        nodes = directive.nodes()
        if len(nodes) != 2:
            raise ScriptError(f"line {directive.line}: report-unreachable ID OF")
        self._member(directive).node.report_unreachable(nodes[1])

    def _report_snapshot(self, directive: Directive) -> None:
        nodes = directive.nodes()
        if len(nodes) != 2:
            raise ScriptError(f"line {directive.line}: report-snapshot ID OF ok=")
        ok = boolean(directive.value("ok"))
        self._member(directive).node.report_snapshot(nodes[1], ok)

    def _read_index(self, directive: Directive) -> None:
        member, rest = self._member(directive), directive.positional()[1:]
        if len(rest) != 1:
            raise ScriptError(f"line {directive.line}: read-index ID CONTEXT")
        member.node.read_index(rest[0].encode())

    def _set_timeout(self, directive: Directive) -> None:
        ticks = int(directive.value("timeout"))
        self._member(directive).node.raft.randomized_election_ticks = ticks

    # ---- showing ----

    def _log_level(self, directive: Directive) -> None:
        self._set_level((directive.positional() or [""])[0])

    def _set_level(self, name: str) -> None:
        if name.lower() not in LOG_LEVELS:
            levels = ", ".join(level.upper() for level in LOG_LEVELS)
            raise Refused(f"log levels must be either of [{levels}]")
        self._cluster.output.quiet = name.lower() == "none"

    def _show_log(self, member: Member) -> None:
        storage = member.storage
        first, last = storage.first_index(), storage.last_index()
        if last < first:
            self._write(f"log is empty: first index={first}, last index={last}")
        else:
            self._write(describe.entries_text(storage.all_entries()))

    def _show_states(self, directive: Directive) -> None:
        for member in self._cluster.members:
            raft = member.node.raft
            voter = member.id in raft.tracker.membership.voters()
            self._write(
                f"{member.id}: {describe.ROLES[raft.role]} "
                f"({'Voter' if voter else 'Non-Voter'}) "
                f"Term:{raft.term} Lead:{raft.leader}\n"
            )

    def _show_status(self, directive: Directive) -> None:
        raft = self._member(directive).node.raft
        if raft.leader == raft.id:
            self._write(describe.progress_map_text(raft.tracker.members))

    # ---- memberships without a cluster ----

    def _change_membership(self, directive: Directive) -> None:
        self._write(self._membership.change(directive, parse_steps, boolean))


def _lease_reads(text: str) -> bool:
    if text not in ("safe", "lease-based"):
        raise Refused(f'invalid read-only option "{text}"')
    return text == "lease-based"


def _config(id: int, settings: dict[str, int | bool]) -> RaftConfig:
    try:
        return RaftConfig(
            id=id,
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
            **settings,  # type: ignore[arg-type] # keys and kinds are in a table
        )
    except ConfigError as exc:
        raise Refused(str(exc)) from exc

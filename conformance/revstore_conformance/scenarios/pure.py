"""Commands about quorums and memberships, which need no cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection

from revstore.interfaces.consensus import ConfChangeSingle
from revstore_conformance.scenarios import describe
from revstore_conformance.scenarios.script import Directive, ScriptError
from revstore_raft.limits import NO_LIMIT
from revstore_raft.membership import Changer, InvalidChangeError
from revstore_raft.quorum import (
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)
from revstore_raft.tracker import Tracker


class Question:
    """Arguments of ``committed`` and ``vote``."""

    def __init__(self, directive: Directive) -> None:
        self.incoming: list[int] = []
        self.outgoing: list[int] = []
        self.joint = False
        answers: list[str] = []
        for key, text in directive.pairs():
            if key == "cfg":
                self.incoming.append(int(text))
            elif key == "cfgj":
                self.joint = True
                if text != "zero":
                    self.outgoing.append(int(text))
            elif key in ("idx", "votes"):
                answers.append(text)
            else:
                raise ScriptError(f"line {directive.line}: unknown key {key!r}")
        voters = list(dict.fromkeys([*self.incoming, *self.outgoing]))
        if len(voters) != len(answers):
            raise ScriptError(
                f"line {directive.line}: {len(answers)} answers of voters {voters}"
            )
        given = zip(voters, answers, strict=True)
        self.answers = {voter: text for voter, text in given if text != "_"}


def committed(directive: Directive) -> str:
    """A chart of who acknowledged what, and the index that is committed."""
    question = Question(directive)
    acked = {voter: int(text) for voter, text in question.answers.items()}
    incoming = [acked.get(voter, 0) for voter in question.incoming]
    outgoing = [acked.get(voter, 0) for voter in question.outgoing]
    out = _chart({*question.incoming, *question.outgoing}, acked)
    if not question.joint:
        index = majority_committed(incoming)
        twins = {
            "alternative computation": _committed_by_counting(incoming),
            "zero-joint quorum": joint_committed(incoming, ()),
            "self-joint quorum": joint_committed(incoming, incoming),
        }
    else:
        index = joint_committed(incoming, outgoing)
        twins = {"symmetry": joint_committed(outgoing, incoming)}
    for name, twin in twins.items():
        if twin != index:
            out += f"{_index_text(twin)} <-- via {name}\n"
    return f"{out}{_index_text(index)}\n"


def vote(directive: Directive) -> str:
    """How a vote stands."""
    question = Question(directive)
    votes: dict[int, bool] = {}
    for voter, text in question.answers.items():
        if text not in ("y", "n"):
            raise ScriptError(f"line {directive.line}: unknown vote {text!r}")
        votes[voter] = text == "y"
    incoming, outgoing = set(question.incoming), set(question.outgoing)
    if not question.joint:
        result = majority_vote(incoming, votes)
        twins = {
            "zero-joint quorum": joint_vote(incoming, (), votes),
            "self-joint quorum": joint_vote(incoming, incoming, votes),
        }
    else:
        result = joint_vote(incoming, outgoing, votes)
        twins = {"symmetry": joint_vote(outgoing, incoming, votes)}
    out = [
        f"{twin.value} <-- via {name}\n"
        for name, twin in twins.items()
        if twin is not result
    ]
    return f"{''.join(out)}{result.value}\n"


def _committed_by_counting(acked: Collection[int]) -> int:
    """The definition, word by word: the largest index that a quorum reached."""
    quorum = len(acked) // 2 + 1
    reached = [i for i in acked if sum(other >= i for other in acked) >= quorum]
    return max(reached, default=0) if acked else NO_LIMIT


def _index_text(index: int) -> str:
    return "\N{INFINITY}" if index == NO_LIMIT else str(index)


def _chart(voters: set[int], acked: dict[int, int]) -> str:
    """A bar a voter, as long as the number of voters that acknowledged less."""
    count = len(voters)
    if not count:
        return "<empty majority quorum>"
    indexes = sorted(acked.get(voter, 0) for voter in voters)
    out = [" " * count + "    idx\n"]
    for voter in sorted(voters):
        index = acked.get(voter)
        length = indexes.index(index or 0)
        bar = "?" if index is None else "x" * length + ">"
        out.append(f"{bar:<{count + 1}} {index or 0:>5}    (id={voter})\n")
    return "".join(out)


class MembershipUnderTest:
    """Commands ``simple``, ``enter-joint`` and ``leave-joint``."""

    def __init__(self) -> None:
        self._tracker = Tracker()
        self._last_index = 0
        """Grows with each command, so that ``next`` tells when a member came."""

    def change(
        self,
        directive: Directive,
        parse_steps: Callable[[str], list[ConfChangeSingle]],
        boolean: Callable[[str], bool],
    ) -> str:
        """Run one command; returns the membership or why it was refused."""
        tracker = self._tracker
        changer = Changer(
            tracker.membership, tracker.progress_map(), self._last_index, (10, NO_LIMIT)
        )
        self._last_index += 1
        steps = parse_steps(" ".join(directive.input))
        try:
            if directive.command == "simple":
                result = changer.simple(steps)
            elif directive.command == "enter-joint":
                texts = [text for key, text in directive.pairs() if key == "autoleave"]
                result = changer.enter_joint(boolean((texts or ["false"])[0]), steps)
            elif steps:
                return "this command takes no input\n"
            else:
                result = changer.leave_joint()
        except InvalidChangeError as exc:
            return f"{exc}\n"
        tracker.replace(*result)
        return (
            f"{describe.membership_text(result[0])}\n"
            f"{describe.progress_map_text(tracker.members)}"
        )

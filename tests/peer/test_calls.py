"""Calls between members: each is answered once, whatever the network does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revstore.api import errors
from revstore.errors import ApiError, InvariantViolation
from revstore.peer import calls
from revstore.peer.calls import NOT_SENT, Answered, PeerCalls

Answers = list[bytes | ApiError]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 50.0

    def now(self) -> float:
        """Seconds."""
        return self.time


class Wire:
    """Members that deliver to one another when told to."""

    def __init__(self, *members: int) -> None:
        self.clock = Clock()
        self.up = True
        self.under_way: deque[tuple[int, int, bytes]] = deque()
        self.members = {
            member: PeerCalls(self.clock, self.sender(member), seed=member << 40)
            for member in members
        }

    def sender(self, member: int) -> Callable[[int, bytes], bool]:
        """What a member sends with."""

        def send(to: int, payload: bytes) -> bool:
            if self.up:
                self.under_way.append((member, to, payload))
            return self.up

        return send

    def deliver(self) -> None:
        """Deliver everything, answers too."""
        while self.under_way:
            sender, to, payload = self.under_way.popleft()
            self.members[to].receive(sender, payload)


def echo(sender: int, body: bytes, answered: Answered) -> None:
    """Answers with what it was asked."""
    answered(b"%d:" % sender + body)


@pytest.fixture
def wire() -> Wire:
    """Members 1 and 2; the second echoes."""
    made = Wire(1, 2)
    made.members[2].serve("echo", echo)
    return made


def ask(wire: Wire, body: bytes = b"", name: str = "echo", to: int = 2) -> Answers:
    """Member 1 asks; the list gets the answer."""
    answers: Answers = []
    wire.members[1].call(to, name, body, 1.0, answers.append)
    return answers


def test_an_answer_comes_back(wire: Wire) -> None:
    """The member that was asked answers, and knows who asked."""
    answers = ask(wire, b"\x00body\xff")
    assert answers == []
    wire.deliver()
    assert answers == [b"1:\x00body\xff"]
    assert len(wire.members[1]) == 0


def test_an_error_keeps_code_and_text(wire: Wire) -> None:
    """An ApiError of the answering member is the same one where it was asked."""

    def refuse(sender: int, body: bytes, answered: Answered) -> None:
        answered(errors.LEARNER_NOT_READY)

    wire.members[2].serve("refuse", refuse)
    answers = ask(wire, name="refuse")
    wire.deliver()
    assert answers == [errors.LEARNER_NOT_READY]


def test_a_code_that_is_none_is_unknown(wire: Wire) -> None:
    """A code that gRPC does not have reaches no client."""

    def refuse(sender: int, body: bytes, answered: Answered) -> None:
        answered(ApiError(4711, "odd"))

    wire.members[2].serve("refuse", refuse)
    answers = ask(wire, name="refuse")
    wire.deliver()
    assert answers == [ApiError(errors.Code.UNKNOWN, "odd")]


def test_an_answer_may_come_later(wire: Wire) -> None:
    """A call is answered when the other member is ready, and only once."""
    kept: list[Answered] = []
    wire.members[2].serve("later", lambda sender, body, answered: kept.append(answered))
    answers = ask(wire, name="later")
    wire.deliver()
    assert answers == []
    kept[0](b"first")
    kept[0](b"second")
    wire.deliver()
    assert answers == [b"first"]


def test_time_is_up_once(wire: Wire) -> None:
    """A lost request ends with TIMEOUT; an answer after that changes nothing."""
    answers = ask(wire)
    late = ask(wire)
    wire.clock.time += 0.9
    wire.members[1].expire(wire.clock.time)
    assert answers == late == []
    wire.clock.time += 0.1
    wire.members[1].expire(wire.clock.time)
    wire.deliver()
    assert answers == late == [errors.TIMEOUT]


def test_what_was_not_taken_is_said_at_once(wire: Wire) -> None:
    """A member that cannot be reached is no reason to wait."""
    wire.up = False
    assert ask(wire) == [NOT_SENT]
    assert len(wire.members[1]) == 0


def test_nobody_else_can_answer(wire: Wire) -> None:
    """An answer of a member that was not asked is ignored."""
    answers = ask(wire)
    _, _, request = wire.under_way.popleft()
    number = request[2:10]
    wire.members[1].receive(3, b"\x00\x02" + number + b"forged")
    assert answers == []
    wire.members[1].receive(2, b"\x00\x02" + number + b"true")
    wire.members[1].receive(2, b"\x00\x02" + number + b"double")
    assert answers == [b"true"]


def test_a_forgotten_call_is_silent(wire: Wire) -> None:
    """Who does not wait any more is not called, in time or late."""
    answers: Answers = []
    number = wire.members[1].call(2, "echo", b"", 1.0, answers.append)
    wire.members[1].forget(number)
    wire.deliver()
    wire.members[1].expire(wire.clock.time + 5)
    assert answers == []


def test_an_unknown_name_is_refused(wire: Wire) -> None:
    """A member of an older version says that it does not know a call."""
    answers = ask(wire, name="new")
    wire.deliver()
    assert isinstance(answers[0], ApiError)
    assert answers[0].code == errors.Code.UNIMPLEMENTED


def test_a_failing_function_is_an_error_there(wire: Wire) -> None:
    """A bug in answering is the asker's INTERNAL, not its time up."""

    def fail(sender: int, body: bytes, answered: Answered) -> None:
        raise ValueError("odd")

    wire.members[2].serve("fail", fail)
    answers = ask(wire, name="fail")
    wire.deliver()
    assert isinstance(answers[0], ApiError)
    assert answers[0].code == errors.Code.INTERNAL


def test_the_end_answers_everything(wire: Wire) -> None:
    """After ``fail_all`` each call, old or new, has the error."""
    answers = ask(wire)
    wire.members[1].fail_all(errors.STOPPED)
    wire.deliver()
    assert answers == [errors.STOPPED]
    assert ask(wire) == [errors.STOPPED]


def test_calls_under_way_are_bounded(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bounds a call is refused, here or by the member that was asked."""
    monkeypatch.setattr(calls, "SERVED_MAX", 2)
    monkeypatch.setattr(calls, "CALLS_MAX", 4)
    kept: list[Answered] = []
    wire.members[2].serve("later", lambda sender, body, answered: kept.append(answered))
    answers = [ask(wire, name="later") for _ in range(5)]
    assert answers[4] == [errors.TOO_MANY_REQUESTS]
    wire.deliver()
    assert [len(kept), answers[2], answers[3]] == [
        2,
        [errors.TOO_MANY_REQUESTS],
        [errors.TOO_MANY_REQUESTS],
    ]
    kept[0](b"")
    again = ask(wire, name="later")
    wire.deliver()
    assert len(kept) == 3
    assert again == []


def test_a_doubled_request_is_served_once_at_a_time(wire: Wire) -> None:
    """A double of a request that is being worked on does not begin it again."""
    kept: list[Answered] = []
    wire.members[2].serve("later", lambda sender, body, answered: kept.append(answered))
    ask(wire, name="later")
    wire.under_way.append(wire.under_way[0])
    wire.deliver()
    assert len(kept) == 1


def test_a_name_is_served_once(wire: Wire) -> None:
    """Two functions under one name are a bug, and so is a name without bytes."""
    for name in ("echo", "", "\u00e9", "x" * 256):
        with pytest.raises(InvariantViolation, match="named"):
            wire.members[2].serve(name, echo)


@given(st.binary(max_size=40))
def test_garbage_is_ignored(data: bytes) -> None:
    """Whatever bytes arrive, nothing raises and no call is disturbed."""
    wire = Wire(1, 2)
    wire.members[2].serve("echo", echo)
    answers = ask(wire, b"still")
    for payload in (data, b"\x00" + data, b"\x00\x01" + data, b"\x00\x03" + data):
        wire.members[1].receive(2, payload)
        wire.members[2].receive(1, payload)
    wire.deliver()
    assert answers == [b"1:still"]


@given(st.data())
def test_every_call_is_answered_once(data: st.DataObject) -> None:
    """Losses, any order and late answers: each call ends exactly once."""
    wire = Wire(1, 2)
    wire.members[2].serve("echo", echo)
    asked: list[tuple[bytes, Answers]] = []
    for step in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(("ask", "deliver", "lose", "wait")))
        if action == "ask":
            body = b"%d" % step
            asked.append((body, ask(wire, body)))
        elif action == "wait":
            wire.clock.time += 0.4
            wire.members[1].expire(wire.clock.time)
        elif wire.under_way:
            place = data.draw(st.integers(0, len(wire.under_way) - 1))
            sender, to, payload = wire.under_way[place]
            del wire.under_way[place]
            if action == "deliver":
                wire.members[to].receive(sender, payload)
    wire.members[1].expire(wire.clock.time + 1)
    wire.deliver()
    for body, answers in asked:
        assert answers in ([b"1:" + body], [errors.TIMEOUT])

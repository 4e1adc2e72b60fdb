"""Which failed call is made again."""

from __future__ import annotations

from random import Random

import pytest

from revstore.api import errors
from revstore.api.errors import Code
from revstore.client.balancer import Health
from revstore.client.methods import (
    DELETE,
    GRANT,
    GRANT_ID,
    MEMBER_ADD,
    PUT,
    RANGE,
    READ_TXN,
    REVOKE,
    TXN,
)
from revstore.client.retry import (
    Kind,
    OutcomeUnknown,
    Verdict,
    final,
    health_after,
    judge,
    judge_stream,
    pause_after,
)
from revstore.errors import ApiError
from revstore.interfaces.channel import NotSent

LOST = ApiError(Code.UNAVAILABLE, "connection lost")
NOT_SENT = NotSent("nothing answers")
ALL = list(Kind)


def verdict(kind: Kind, error: ApiError, *, password: bool = False) -> Verdict:
    """The judgement with three endpoints."""
    return judge(kind, error, password=password, endpoints=3)


@pytest.mark.parametrize("kind", ALL)
def test_what_never_left_is_always_repeated(kind: Kind) -> None:
    """Whatever the call would change."""
    assert verdict(kind, NOT_SENT) is Verdict.ELSEWHERE


def test_a_write_that_was_sent_is_never_repeated() -> None:
    """Not after a lost connection, a time-out, or a refusal by a leader that went."""
    for error in (
        LOST,
        errors.TIMEOUT,
        errors.TIMEOUT_DUE_TO_LEADER_FAIL,
        errors.TIMEOUT_DUE_TO_CONNECTION_LOST,
        errors.LEADER_CHANGED,
        errors.STOPPED,
        errors.DEADLINE_EXCEEDED,
        ApiError(Code.INTERNAL, "handler failed"),
        ApiError(Code.CANCELLED, "context canceled"),
    ):
        for kind in (Kind.WRITE, Kind.CHANGE):
            assert verdict(kind, error) is Verdict.RAISE, (kind, error)
            assert isinstance(final(kind, error), OutcomeUnknown), (kind, error)


def test_reads_are_repeated_on_unavailable_alone() -> None:
    """A lost connection and a missing leader pass; a refusal stays one."""
    for error in (LOST, errors.TIMEOUT, errors.NO_LEADER, errors.LEADER_CHANGED):
        assert verdict(Kind.READ, error) is Verdict.ELSEWHERE
    for error in (errors.COMPACTED, errors.PERMISSION_DENIED, errors.NO_SPACE):
        assert verdict(Kind.READ, error) is Verdict.RAISE
        assert final(Kind.READ, error) is error


def test_refusals_that_are_certain_are_repeated() -> None:
    """A member without a leader has not proposed the write; a change of the membership
    may have gone to a leader all the same."""
    for error in (errors.NO_LEADER, errors.PROPOSAL_DROPPED):
        assert verdict(Kind.WRITE, error) is Verdict.ELSEWHERE
        assert not isinstance(final(Kind.WRITE, error), OutcomeUnknown)
        assert verdict(Kind.CHANGE, error) is Verdict.RAISE
    assert isinstance(final(Kind.CHANGE, errors.NO_LEADER), OutcomeUnknown)


@pytest.mark.parametrize("kind", ALL)
def test_refused_tokens_are_renewed(kind: Kind) -> None:
    """With a password even a write is made again: it was refused before it was done."""
    for error in (
        errors.INVALID_AUTH_TOKEN,
        errors.AUTH_OLD_REVISION,
        errors.USER_EMPTY,
    ):
        assert verdict(kind, error, password=True) is Verdict.NEW_TOKEN
        assert verdict(kind, error, password=False) is Verdict.RAISE


@pytest.mark.parametrize("kind", ALL)
def test_learners_send_calls_on(kind: Kind) -> None:
    """If there is somewhere else to go."""
    error = errors.NOT_SUPPORTED_FOR_LEARNER
    assert judge(kind, error, password=False, endpoints=2) is Verdict.ELSEWHERE
    assert judge(kind, error, password=False, endpoints=1) is Verdict.RAISE


def test_a_refusal_is_no_unknown_outcome() -> None:
    """What the cluster refused was not done, and the error says which refusal."""
    for error in (errors.LEASE_NOT_FOUND, errors.TOO_MANY_REQUESTS, errors.NO_SPACE):
        assert final(Kind.WRITE, error) is error
    assert final(Kind.WRITE, NOT_SENT) is NOT_SENT


def test_the_kinds_are_those_of_etcd() -> None:
    """Reads, leases and their end may come twice; changes of keys and members not."""
    kinds = [method.kind for method in (RANGE, READ_TXN, GRANT, REVOKE)]
    assert kinds == [Kind.READ] * 4
    kinds = [method.kind for method in (PUT, DELETE, TXN, GRANT_ID)]
    assert kinds == [Kind.WRITE] * 4
    assert MEMBER_ADD.kind is Kind.CHANGE


def test_streams_resume_unless_they_are_refused() -> None:
    """A stream repeats nothing, so it goes on after any loss."""
    for error in (LOST, NOT_SENT, errors.NO_LEADER, ApiError(Code.INTERNAL, "reset")):
        found = judge_stream(error, password=False, endpoints=1)
        assert found is Verdict.ELSEWHERE
    found = judge_stream(errors.PERMISSION_DENIED, password=True, endpoints=3)
    assert found is Verdict.RAISE
    found = judge_stream(errors.INVALID_AUTH_TOKEN, password=True, endpoints=3)
    assert found is Verdict.NEW_TOKEN
    learner = errors.NOT_SUPPORTED_FOR_LEARNER
    assert judge_stream(learner, password=False, endpoints=3) is Verdict.ELSEWHERE
    assert judge_stream(learner, password=False, endpoints=1) is Verdict.RAISE


def test_what_failures_tell_of_the_endpoint() -> None:
    """No connection: down. No leader: limping. No answer: a probe must tell."""
    assert health_after(NOT_SENT) is Health.DOWN
    assert health_after(LOST) is Health.DOWN
    assert health_after(errors.STOPPED) is Health.DOWN
    assert health_after(errors.NO_LEADER) is Health.LIMPING
    assert health_after(errors.NOT_SUPPORTED_FOR_LEARNER) is Health.LIMPING
    assert health_after(errors.TIMEOUT) is Health.HEALTHY
    assert health_after(errors.DEADLINE_EXCEEDED) is Health.HEALTHY
    assert health_after(errors.COMPACTED) is None


def test_a_quorum_is_tried_before_a_pause() -> None:
    """Of three endpoints two are tried at once; pauses grow up to a bound."""
    random = Random(3)
    pauses = [pause_after(attempt, 3, random) for attempt in range(1, 41)]
    assert pauses[0::2] == [0.0] * 20
    waits = pauses[1::2]
    assert 0.02 < waits[0] < 0.03
    assert all(wait <= 1.1 for wait in waits)
    assert waits[-1] >= 0.9


def test_errors_can_be_raised_anew() -> None:
    """A copy of an error is of the same kind; one raised twice would chain tracebacks."""
    for error in (NOT_SENT, OutcomeUnknown(14, "gone")):
        assert type(error.fresh()) is type(error)
        assert error.fresh() == error

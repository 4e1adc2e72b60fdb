"""When a call that failed may be made again.

Rules of this file:

1. Pure functions of the call's kind and the error (etcd's clientv3/retry.go).
2. A call that never left may always be made again.
3. A read is made again on UNAVAILABLE. A write is not, unless the error says for certain
   that nobody did it: a request that was sent and not answered is never repeated.
4. A refused token is fetched anew and the call made again: it was refused before
   anything was done.
"""

from __future__ import annotations

from enum import StrEnum
from random import Random

from revstore.api import errors
from revstore.api.errors import Code
from revstore.client.balancer import Health
from revstore.errors import ApiError
from revstore.interfaces.channel import NotSent

PAUSE_MIN_S = 0.025
PAUSE_MAX_S = 1.0
PAUSE_JITTER = 0.1

REFUSED_UNDONE = frozenset({errors.NO_LEADER, errors.PROPOSAL_DROPPED})
"""Answers of a member that has not handed the request on."""
TOKEN_REFUSED = frozenset({errors.INVALID_AUTH_TOKEN, errors.AUTH_OLD_REVISION})
NO_ANSWER = frozenset(
    {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.INTERNAL}
)
"""Codes after which a request may or may not have been done."""


class Kind(StrEnum):
    """What a repeated call would do."""

    READ = "read"
    """The same as once: reads, and writes whose repetition is harmless."""
    WRITE = "write"
    """Another change; the member itself hands it to consensus."""
    CHANGE = "change"
    """As WRITE, but the member may have the leader do it: no refusal is certain."""


class Verdict(StrEnum):
    """What to do with a failed call."""

    RAISE = "raise"
    ELSEWHERE = "elsewhere"
    """Make it again, at another endpoint if there is one."""
    NEW_TOKEN = "new token"
    """Fetch a token and make it again."""


class OutcomeUnknown(ApiError):  # noqa: N818 - says what is known
    """A change was sent and not answered: it may have been done, or may be later.

    ``code`` and ``message`` are those of the failure. Read before doing it again.
    """

    def fresh(self) -> OutcomeUnknown:
        """A copy to raise."""
        return OutcomeUnknown(self.code, self.message)


def judge(kind: Kind, error: ApiError, *, password: bool, endpoints: int) -> Verdict:
    """What to do after an error of a call.

    ``password``: whether a token can be fetched; ``endpoints``: how many there are.
    """
    if isinstance(error, NotSent):
        return Verdict.ELSEWHERE
    refused = _judge_refusal(error, password, endpoints)
    if refused is not None:
        return refused
    if kind is Kind.READ:
        again = error.code == Code.UNAVAILABLE or error == errors.PROPOSAL_DROPPED
    else:
        again = kind is Kind.WRITE and error in REFUSED_UNDONE
    return Verdict.ELSEWHERE if again else Verdict.RAISE


def judge_stream(error: ApiError, *, password: bool, endpoints: int) -> Verdict:
    """What to do after a stream ended with an error; it resumes where it was."""
    refused = _judge_refusal(error, password, endpoints)
    if refused is not None:
        return refused
    return Verdict.ELSEWHERE if error.code in NO_ANSWER else Verdict.RAISE


def _judge_refusal(error: ApiError, password: bool, endpoints: int) -> Verdict | None:
    """What to do about a refusal that means the same for all calls; None: it is none."""
    if password and (error in TOKEN_REFUSED or error == errors.USER_EMPTY):
        return Verdict.NEW_TOKEN
    if error.message == errors.NOT_SUPPORTED_FOR_LEARNER.message:
        # Members of a mixed list of endpoints: a voter may be the next one.
        return Verdict.ELSEWHERE if endpoints > 1 else Verdict.RAISE
    return None


def final(kind: Kind, error: ApiError) -> ApiError:
    """The error that the caller gets when the call is not made again."""
    if kind is Kind.READ or isinstance(error, NotSent | OutcomeUnknown):
        return error
    if error.code not in NO_ANSWER:
        return error
    if kind is Kind.WRITE and error in REFUSED_UNDONE:
        return error
    return OutcomeUnknown(error.code, error.message)


def health_after(error: ApiError) -> Health | None:
    """What a failed call tells of the endpoint; HEALTHY means "better probe it"."""
    if isinstance(error, NotSent):
        return Health.DOWN
    if _limps(error):
        return Health.LIMPING
    if error.code == Code.DEADLINE_EXCEEDED:
        return Health.HEALTHY
    if error.code != Code.UNAVAILABLE:
        return None
    # The member speaks for itself ("etcdserver: ..."), or the connection is gone.
    own = error.message.startswith("etcdserver: ") and error != errors.STOPPED
    return Health.HEALTHY if own else Health.DOWN


def health_probed(error: ApiError) -> Health:
    """What the failure of a probe tells of the endpoint."""
    if isinstance(error, NotSent) or error == errors.STOPPED:
        return Health.DOWN
    if _limps(error):
        return Health.LIMPING
    if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
        return Health.DOWN
    # Whoever answers that it does not know the service answers.
    return Health.HEALTHY


def _limps(error: ApiError) -> bool:
    """Whether a member answered that cannot do everything."""
    learner = errors.NOT_SUPPORTED_FOR_LEARNER.message
    return error == errors.NO_LEADER or error.message == learner


def pause_after(attempts: int, endpoints: int, random: Random) -> float:
    """Seconds to wait after so many failed attempts: none until a quorum was tried."""
    quorum = endpoints // 2 + 1
    rounds, rest = divmod(attempts, quorum)
    if rest:
        return 0.0
    pause: float = min(PAUSE_MIN_S * 2 ** min(rounds - 1, 30), PAUSE_MAX_S)
    return pause * random.uniform(1 - PAUSE_JITTER, 1 + PAUSE_JITTER)

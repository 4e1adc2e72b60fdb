"""Requests from one member to another, and their answers.

What a member asks another goes the way of Raft's messages, through a transport that may
lose it. A payload of this file begins with a zero byte, and no raftpb message does
(``codec.py``: the field of its type comes first), so the receiver can tell them apart.

Layout, numbers big endian: zero byte, kind (1 byte), number of the call (8 bytes); then

- REQUEST: length of the name (1 byte), name (ASCII), body
- ANSWER: body
- ERROR: gRPC code (4 bytes), text (UTF-8)

Rules of this file:

1. Who calls hears exactly once: an answer, an error of the member, or that the time is
   up. An error that came from here says so by being ``NOT_SENT`` or TIMEOUT.
2. Only the member that was called can answer, and only once. The numbers begin at
   random, so that an answer to an earlier start of this member answers nothing.
3. What is under way is bounded, here and for each member that asks.
4. Nothing that arrives can raise: it is answered, or dropped with a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from revstore import logs
from revstore.api import errors
from revstore.errors import ApiError, InvariantViolation
from revstore.interfaces.ports import Clock

LOG = logs.get(__name__)

CALLS_MAX = 8_192
"""Calls of this member that wait for an answer."""
SERVED_MAX = 4_096
"""Calls of one other member that are being worked on."""
FIRST_BYTE = 0
"""What every payload of this file begins with."""

NOT_SENT = ApiError(errors.Code.UNAVAILABLE, "revstore: the member cannot be reached")
"""The transport did not take the request: nobody has seen it."""

Answered = Callable[[bytes | ApiError], None]
"""Gets the answer's body or an error, once."""

Serve = Callable[[int, bytes, Answered], None]
"""Answers a request: who asks, the body, and where the answer goes, now or later."""

Send = Callable[[int, bytes], bool]
"""Hands a payload to the transport; False if it did not take it. Raises: nothing."""

_HEAD = Struct(">BBQ")
_CODE = Struct(">I")
_NUMBER_MAX = (1 << 64) - 1
_CODES = frozenset(errors.Code) - {errors.Code.OK}


def error_of(code: int, text: str) -> ApiError:
    """The error that another member answered with; a code that is none is UNKNOWN.

    Raises: nothing.
    """
    return ApiError(code if code in _CODES else errors.Code.UNKNOWN, text)


class Kind(IntEnum):
    """What a payload is."""

    REQUEST = 1
    ANSWER = 2
    ERROR = 3


class _Call(NamedTuple):
    member: int
    deadline: float
    answered: Answered


class PeerCalls:
    """The calls of one member, and those that others make of it. One thread uses it."""

    def __init__(self, clock: Clock, send: Send, seed: int) -> None:
        """``seed`` must differ between the starts of a member (rule 2)."""
        self._clock = clock
        self._send = send
        self._number = seed & _NUMBER_MAX
        self._calls: dict[int, _Call] = {}
        self._serve: dict[str, Serve] = {}
        self._serving: dict[int, set[int]] = {}
        self._ended: ApiError | None = None

    def __len__(self) -> int:
        """Calls of this member that wait for an answer."""
        return len(self._calls)

    def serve(self, name: str, function: Serve) -> None:
        """Let other members ask for ``name``; up to 255 ASCII characters.

        Raises:
            InvariantViolation: the name is taken already, or of another form.
        """
        if name in self._serve or not name.isascii() or not 0 < len(name) < 256:
            raise InvariantViolation(f"a peer call cannot be named {name!r}")
        self._serve[name] = function

    # ----- asking

    def call(
        self, member: int, name: str, body: bytes, timeout_s: float, answered: Answered
    ) -> int:
        """Ask a member; returns the call's number, for ``forget``.

        ``answered`` gets the answer or an error, inline if that is known at once:
        ``NOT_SENT``, TOO_MANY_REQUESTS, or what ``fail_all`` was given. Raises: nothing.
        """
        self._number = number = (self._number + 1) & _NUMBER_MAX
        if self._ended is not None:
            answered(self._ended)
            return number
        if len(self._calls) >= CALLS_MAX:
            answered(errors.TOO_MANY_REQUESTS)
            return number
        self._calls[number] = _Call(member, self._clock.now() + timeout_s, answered)
        head = _HEAD.pack(FIRST_BYTE, Kind.REQUEST, number)
        short = name.encode("ascii")
        payload = b"".join((head, bytes((len(short),)), short, body))
        if not self._send(member, payload) and number in self._calls:
            del self._calls[number]
            answered(NOT_SENT)
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for this call any more; its ``answered`` is not called.

        Raises: nothing.
        """
        self._calls.pop(number, None)

    def expire(self, now: float) -> None:
        """Tell those whose time is up. Raises: nothing."""
        late = [key for key, call in self._calls.items() if call.deadline <= now]
        for number in late:
            call = self._calls.pop(number, None)
            if call is not None:
                call.answered(errors.TIMEOUT)

    def fail_all(self, error: ApiError) -> None:
        """Answer all calls, and every later one, with an error. Raises: nothing."""
        self._ended = error
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.answered(error)

    # ----- what arrives

    def receive(self, sender: int, payload: bytes) -> None:
        """A payload of another member. Raises: nothing (rule 4)."""
        if len(payload) < _HEAD.size or payload[0] != FIRST_BYTE:
            self._ignore(sender, "no call")
            return
        _, kind, number = _HEAD.unpack_from(payload)
        if kind == Kind.REQUEST:
            self._request(sender, number, payload)
        elif kind in (Kind.ANSWER, Kind.ERROR):
            self._answer(sender, number, kind, payload)
        else:
            self._ignore(sender, f"kind {kind}")

    def _answer(self, sender: int, number: int, kind: int, payload: bytes) -> None:
        call = self._calls.get(number)
        if call is None or call.member != sender:
            LOG.debug("an answer that nobody waits for", sender=f"{sender:x}")
            return
        answer: bytes | ApiError = payload[_HEAD.size :]
        if kind == Kind.ERROR:
            if len(payload) < _HEAD.size + _CODE.size:
                self._ignore(sender, "an error without a code")
                return
            code = _CODE.unpack_from(payload, _HEAD.size)[0]
            text = payload[_HEAD.size + _CODE.size :].decode(errors="replace")
            answer = error_of(code, text)
        del self._calls[number]
        try:
            call.answered(answer)
        except Exception:
            LOG.exception("a caller failed on its answer", sender=f"{sender:x}")

    def _request(self, sender: int, number: int, payload: bytes) -> None:
        start = _HEAD.size + 1
        end = start + (payload[start - 1] if len(payload) >= start else 0)
        if end == start or len(payload) < end:
            self._ignore(sender, "a request without a name")
            return
        name = payload[start:end].decode("ascii", errors="replace")
        serving = self._serving.setdefault(sender, set())
        if number in serving:
            return
        if len(serving) >= SERVED_MAX:
            self._reply(sender, number, errors.TOO_MANY_REQUESTS)
            return
        serving.add(number)

        def answered(answer: bytes | ApiError) -> None:
            if number in serving:
                serving.discard(number)
                self._reply(sender, number, answer)

        function = self._serve.get(name)
        if function is None:
            text = f"revstore: this member answers no call {name!r}"
            answered(ApiError(errors.Code.UNIMPLEMENTED, text))
            return
        try:
            function(sender, payload[end:], answered)
        except Exception as exc:
            # The asker must not wait for an answer that never comes (rule 4).
            LOG.exception("a call of a member failed", name=name)
            answered(ApiError(errors.Code.INTERNAL, f"revstore: {exc!r}"))

    def _reply(self, member: int, number: int, answer: bytes | ApiError) -> None:
        if isinstance(answer, ApiError):
            body = _CODE.pack(answer.code) + answer.message.encode(errors="replace")
            kind = Kind.ERROR
        else:
            body, kind = answer, Kind.ANSWER
        # A lost answer is like a lost request: whoever asked has a deadline.
        self._send(member, _HEAD.pack(FIRST_BYTE, kind, number) + body)

    def _ignore(self, sender: int, what: str) -> None:
        LOG.warn("ignored bytes of a member", sender=f"{sender:x}", what=what)


__all__ = [
    "CALLS_MAX",
    "FIRST_BYTE",
    "NOT_SENT",
    "SERVED_MAX",
    "Answered",
    "Kind",
    "PeerCalls",
    "Send",
    "Serve",
    "error_of",
]

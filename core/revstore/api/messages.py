"""From bytes to a request, and from a result to the bytes of a response.

Rules of this file:

1. Bytes that are no message of the expected type are the client's fault: the answer is
   INVALID_ARGUMENT, never INTERNAL.
2. A response is the header's bytes and the body's bytes, one after the other; nothing
   is parsed or built again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from revstore.api import errors
from revstore.api.replica import AuthInfo, Done, Replica
from revstore.errors import ApiError
from revstore.interfaces.transport import Call
from revstore.types import ApplyResult

RESPONSE_BYTES_MAX = 2**31 - 1
"""What etcd sends at most in one message."""

M = TypeVar("M", bound=Message)


def parse(parser: Callable[[bytes], M], message: bytes) -> M:
    """The request. Raises: ApiError INVALID_ARGUMENT, with the parser's reason."""
    try:
        return parser(message)
    except DecodeError as error:
        raise errors.bad_request(str(error)) from error


def identify(replica: Replica, call: Call) -> AuthInfo | None:
    """Who makes the call; None when auth is off or there is no token.

    Raises:
        ApiError: INVALID_AUTH_TOKEN.
    """
    if replica.auth.enabled:
        return replica.authenticate(call.metadata())
    return None


def identify_admin(replica: Replica, call: Call) -> AuthInfo | None:
    """Who makes a call that needs the role root while auth is on.

    Raises:
        ApiError: INVALID_AUTH_TOKEN, USER_EMPTY or PERMISSION_DENIED.
    """
    info = identify(replica, call)
    replica.auth.check_admin(info)
    return info


def reply_with(replica: Replica, call: Call, result: ApplyResult) -> None:
    """Answer with a header for the result's revision and its body."""
    message = replica.header(result.revision) + result.body
    if len(message) > RESPONSE_BYTES_MAX:
        call.fail(response_too_large(len(message)))
    else:
        call.reply(message)


def answer_to(replica: Replica, call: Call) -> Done:
    """A ``Done`` that answers a call with what a proposal came to."""

    def done(result: ApplyResult | ApiError) -> None:
        if isinstance(result, ApiError):
            call.fail(result)
        else:
            call.reply(replica.header(result.revision) + result.body)

    return done


def response_too_large(size: int) -> ApiError:
    """The refusal of an answer that no client could take, in gRPC's own words."""
    text = f"grpc: trying to send message larger than max ({size} vs. {RESPONSE_BYTES_MAX})"
    return ApiError(errors.Code.RESOURCE_EXHAUSTED, text)

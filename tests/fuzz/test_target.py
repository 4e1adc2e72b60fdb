"""The checks of the fuzz tests see what they are there for."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from revstore.proto import rpc_pb2 as rpc
from tests.fuzz.target import Answer, Rpc, Target, methods, under_fire

pytestmark = pytest.mark.slow

PUT = next(one for one in methods("KV") if one.path.endswith("/Put"))
VALID = rpc.PutRequest(key=b"k").SerializeToString()
REFUSED = Answer(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key not found")


class Liar(Target):
    """Says that every put was refused, and does it."""

    def call(self, path: str, raw: bytes, token: str = "") -> Answer:
        """Make one call."""
        answer = super().call(path, raw, token)
        return REFUSED if path == PUT.path else answer


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server for the tests of this module."""
    with under_fire(tmp_path_factory.mktemp("checks")) as found:
        yield found


def test_a_refused_request_that_is_done_is_seen(target: Target) -> None:
    """A change by a request that got an error fails the check."""
    liar = Liar(target.server, target.data_dir)
    with pytest.raises(AssertionError, match="key not found"):
        liar.fire(PUT, VALID)
    liar.close()


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (VALID, Answer(grpc.StatusCode.INTERNAL, "revstore: internal error")),
        (VALID, Answer(grpc.StatusCode.UNKNOWN, "etcdserver: what")),
        (VALID, Answer(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")),
        (VALID, Answer(grpc.StatusCode.INVALID_ARGUMENT, "no idea")),
        (
            VALID,
            Answer(grpc.StatusCode.INVALID_ARGUMENT, "revstore: malformed request: x"),
        ),
        (
            b"\xff",
            Answer(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key not found"),
        ),
        (b"\xff", Answer(grpc.StatusCode.OK, "", [b""])),
        (VALID, Answer(grpc.StatusCode.OK, "", [])),
    ],
)
def test_answers_no_client_can_live_with(
    target: Target, raw: bytes, answer: Answer
) -> None:
    """Codes that say nothing, texts that explain nothing, and wrong reasons fail."""
    with pytest.raises(AssertionError):
        target.check(PUT, raw, answer)


def test_all_methods_are_known() -> None:
    """The methods under fire are all that take one request."""
    found: list[Rpc] = methods()
    assert len(found) == len({one.path for one in found}) == 41

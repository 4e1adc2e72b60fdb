"""etcd's recorded answers to an auth session, over a real connection.

The calls and the list of deviations are those of the same session within one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as rpc
from tests.api import test_auth_transcript as recorded
from tests.oracle.transcript import RECORDED_AS, Session, needs_transcripts
from tests.support.server import start_server


class RemoteMember:
    """A served member with the calling form of the member within the process."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def call(
        self,
        path: str,
        request: Message,
        response: Any,
        metadata: Mapping[str, str] = {},
    ) -> Any:
        """One unary call. Raises: ApiError."""
        try:
            return self.session.ask(path, request, response, metadata)
        except grpc.RpcError as error:
            raise ApiError(error.code().value[0], error.details() or "") from error


class RemoteSession(recorded.Session):
    """The session with a served member."""

    def __init__(self, member: RemoteMember) -> None:
        self.member: Any = member
        self.lines: list[tuple[str, str]] = []

    def watch(
        self, label: str, token: str | None, key: bytes = b"a", end: bytes = b""
    ) -> None:
        """The first answer on a watch stream."""
        metadata = {} if token is None else {"token": token}
        create = rpc.WatchCreateRequest(key=key, range_end=end)
        request = rpc.WatchRequest(create_request=create)
        self.note(label, self.member.session.first_watch_answer(request, metadata))


@needs_transcripts
@pytest.mark.slow
def test_every_line_of_the_auth_session(tmp_path: Path) -> None:
    """Each answer of a served member is etcd's, but for the listed deviations."""
    with start_server("lmdb", tmp_path / "data", **RECORDED_AS) as server:
        connection = Session(server)
        try:
            session = RemoteSession(RemoteMember(connection))
            recorded.set_up(session)
            user, root = recorded.log_in(session)
            recorded.use_keys(session, user)
            recorded.administer(session, user, root)
            recorded.use_leases_and_watches(session, user, root)
            recorded.change_password(session, user, root)
        finally:
            connection.close()
    deviations = recorded.DEVIATIONS
    wanted = [
        (label, deviations[label][0] if label in deviations else text)
        for label, text in recorded.transcript()
    ]
    assert session.lines == wanted

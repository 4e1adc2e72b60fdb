"""Looking after members: status, alarms, checksums, snapshots, leadership."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from google.protobuf.message import Message

from revstore.api import errors
from revstore.client.caller import Caller, CallOptions
from revstore.client.methods import (
    ALARM,
    DEFRAGMENT,
    HASH_KV,
    HEALTH,
    MOVE_LEADER,
    SNAPSHOT,
    STATUS,
    Answer,
    Method,
)
from revstore.client.values import Alarm, Status, make_alarms, make_status
from revstore.embedded.values import HashAnswer
from revstore.errors import ApiError, CorruptionError, Unavailable, UsageError
from revstore.proto import health_pb2, rpc_pb2

DIGEST_BYTES = 32


class Maintenance:
    """Calls about single members; ``client.maintenance``.

    ``endpoint`` empty means "any member".
    """

    def __init__(self, caller: Caller, options: CallOptions) -> None:
        self._caller = caller
        self._options = options

    async def status(self, endpoint: str = "") -> Status:
        """How a member is. Raises: ApiError."""
        return make_status(await self._ask(endpoint, STATUS, rpc_pb2.StatusRequest()))

    async def healthy(self, endpoint: str) -> bool:
        """Whether a member serves and knows a leader. Raises: ApiError."""
        request = health_pb2.HealthCheckRequest()
        answer = await self._caller.call_at(endpoint, HEALTH, request, self._options)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def hash_kv(self, revision: int = 0, endpoint: str = "") -> HashAnswer:
        """etcd's HashKV: equal for equal histories. Raises: ApiError OUT_OF_RANGE."""
        request = rpc_pb2.HashKVRequest(revision=revision)
        answer = await self._ask(endpoint, HASH_KV, request)
        hashed = answer.hash_revision or revision or answer.header.revision
        return HashAnswer(answer.hash, hashed, answer.compact_revision)

    async def alarms(self) -> tuple[Alarm, ...]:
        """The alarms that are on. Raises: ApiError."""
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        return make_alarms(await self._caller.call(ALARM, request, self._options))

    async def disarm(self, alarm: Alarm | None = None) -> tuple[Alarm, ...]:
        """Switch an alarm off, or all; which were. Raises: ApiError."""
        gone: list[Alarm] = []
        for one in await self.alarms() if alarm is None else (alarm,):
            request = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.DEACTIVATE,
                memberID=one.member_id,
                alarm=one.kind,
            )
            answer = await self._caller.call(ALARM, request, self._options)
            gone += make_alarms(answer)
        return tuple(gone)

    async def defragment(self, endpoint: str) -> None:
        """Give free space of a member's disk back. Raises: ApiError."""
        request = rpc_pb2.DefragmentRequest()
        await self._caller.call_at(endpoint, DEFRAGMENT, request, self._options)

    async def move_leader(self, member_id: int) -> None:
        """Make another member the leader; finds the leader among the endpoints.

        Raises:
            ApiError: FAILED_PRECONDITION if the member cannot lead, or if no endpoint
                leads.
        """
        request = rpc_pb2.MoveLeaderRequest(targetID=member_id)
        refusal: ApiError = errors.NOT_LEADER
        for endpoint in self._caller.pool.urls:
            try:
                status = await self.status(endpoint)
                if not status.is_leader:
                    continue
                await self._caller.call_at(
                    endpoint, MOVE_LEADER, request, self._options
                )
                return
            except (ApiError, Unavailable) as error:
                if isinstance(error, ApiError) and error != errors.NOT_LEADER:
                    if error.code != errors.Code.UNAVAILABLE:
                        raise
                    refusal = error
        raise refusal.fresh()

    async def snapshot(self, endpoint: str = "") -> AsyncIterator[bytes]:
        """The backend of a member as a file, in pieces; checked at the end.

        Raises:
            ApiError: the member refused, or the stream broke; begin anew.
            CorruptionError: what came is not what was sent.
        """
        urls = self._caller.pool.urls
        if endpoint and endpoint not in urls:
            raise UsageError(f"{endpoint} is no endpoint of this client")
        opened = await self._caller.open_answers(
            SNAPSHOT,
            rpc_pb2.SnapshotRequest().SerializeToString(),
            self._options,
            endpoint,
        )
        digest = hashlib.sha256()
        tail = b""
        try:
            while (message := await opened.stream.receive()) is not None:
                tail += rpc_pb2.SnapshotResponse.FromString(message).blob
                if len(tail) > DIGEST_BYTES:
                    piece, tail = tail[:-DIGEST_BYTES], tail[-DIGEST_BYTES:]
                    digest.update(piece)
                    yield piece
        finally:
            await opened.stream.cancel()
        if digest.digest() != tail:
            raise CorruptionError(
                "the snapshot's checksum does not fit its bytes; save it again"
            )

    async def _ask(
        self, endpoint: str, method: Method[Answer], request: Message
    ) -> Answer:
        if endpoint:
            return await self._caller.call_at(endpoint, method, request, self._options)
        return await self._caller.call(method, request, self._options)

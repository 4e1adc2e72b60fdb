"""What one side sent on a watch stream, sorted by watcher.

Servers may cut the events of a watcher into responses as they like, as long as a
revision stays whole; so the events of a watcher are kept as one list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from revstore.proto import rpc_pb2 as rpc
from revstore_grpcio.client import GrpcioClient, GrpcioClientStream

PATH = "/etcdserverpb.Watch/Watch"
ANSWER_S = 30.0


class Record:
    """One watcher's life: its control responses and its events."""

    def __init__(self, created: rpc.WatchResponse) -> None:
        self.control = [created]
        self.events: list[Any] = []
        self.cut_at: list[int] = []
        """Positions in ``events`` where a response ended."""
        self.problems: list[str] = []

    @property
    def watch_id(self) -> int:
        """The id the server gave."""
        return self.control[0].watch_id

    @property
    def ended(self) -> bool:
        """Whether the server has canceled it."""
        return self.control[-1].canceled

    @property
    def compacted(self) -> bool:
        """Whether a compaction has ended it."""
        return bool(self.control[-1].compact_revision)

    def add_events(self, response: rpc.WatchResponse) -> None:
        """Append the events of a response, and note what no server may do."""
        events = list(response.events)
        first, last = events[0].kv.mod_revision, events[-1].kv.mod_revision
        if self.events and first < self.events[-1].kv.mod_revision:
            self.problems.append(f"revision {first} came late")
        whole = not self.cut_at or self.cut_at[-1] == len(self.events)
        if self.events and whole and first == self.events[-1].kv.mod_revision:
            self.problems.append(f"revision {first} was split")
        if response.header.revision < last:
            self.problems.append(f"header below the event of revision {last}")
        self.events += events
        if not response.fragment:
            self.cut_at.append(len(self.events))


class WatchTape:
    """One open watch stream of one side, and everything it said."""

    def __init__(self, stream: GrpcioClientStream, name: str) -> None:
        self._stream = stream
        self.name = name
        self.changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        self.records: list[Record] = []
        self.progress: list[rpc.WatchResponse] = []
        self.largest = 0
        """The bytes of the largest response."""
        self.fragments = 0
        self.failure: BaseException | None = None

    @classmethod
    async def open(cls, client: GrpcioClient, name: str) -> WatchTape:
        """A new stream to the server of that name."""
        return cls(await client.bidi_stream(PATH), name)

    async def send(self, request: rpc.WatchRequest) -> None:
        """Send one request."""
        await self._stream.send(request.SerializeToString())

    async def close(self) -> None:
        """End the stream."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._stream.cancel()

    async def _read(self) -> None:
        try:
            while True:
                message = await self._stream.receive()
                if message is None:
                    raise ConnectionError("the server ended the watch stream")
                self.largest = max(self.largest, len(message))
                self._take(rpc.WatchResponse.FromString(message))
                self.changed.set()
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            self.failure = exc
            self.changed.set()

    def _take(self, response: rpc.WatchResponse) -> None:
        if response.created:
            self.records.append(Record(response))
        elif response.watch_id == -1 and not response.events:
            self.progress.append(response)
        else:
            record = self._open_record(response.watch_id)
            self.fragments += response.fragment
            if response.events:
                record.add_events(response)
            if response.canceled or not response.events:
                record.control.append(response)

    def _open_record(self, watch_id: int) -> Record:
        for record in reversed(self.records):
            if record.watch_id == watch_id:
                return record
        raise AssertionError(f"a response for watcher {watch_id}, which is not created")


async def until(condition: Callable[[], bool], what: str, *tapes: WatchTape) -> None:
    """Wait for what the servers say on these streams.

    Raises:
        TimeoutError: the condition did not come true.
    """
    changed = asyncio.Event()
    for tape in tapes:
        tape.changed = changed
    try:
        async with asyncio.timeout(ANSWER_S):
            while not condition():
                for tape in tapes:
                    if tape.failure is not None:
                        raise tape.failure
                changed.clear()
                await changed.wait()
    except TimeoutError:
        names = " and ".join(tape.name for tape in tapes)
        raise TimeoutError(f"{what}: not from {names} within {ANSWER_S} s") from None

"""Watching clients, which check what they are told as it arrives.

The contract (``revstore.watch.hub``): events are ordered, unique, complete and whole
revisions at a time; a watcher can resume behind what it has seen, on any member; a
report of progress means that nothing up to it is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from revstore.api.inprocess import DirectStream
from revstore.api.watch import WATCH
from revstore.proto import kv_pb2, rpc_pb2
from revstore_conformance.sim.journal import Change
from revstore_conformance.sim.node import Node

if TYPE_CHECKING:
    from revstore_conformance.sim.cluster import SimCluster

WATCH_CONTRACT = "watch contract"
PROGRESS_REQUEST = rpc_pb2.WatchRequest(
    progress_request=rpc_pb2.WatchProgressRequest()
).SerializeToString()


class WatchClient:
    """One watcher of a range of keys, for the whole run."""

    def __init__(
        self, cluster: SimCluster, number: int, key: bytes, end: bytes
    ) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.name = f"w{number}"
        self.random = cluster.world.random(f"watcher {number}")
        self.key, self.end = key, end
        self.next_revision = 1
        """Nothing before it is missing."""
        self.events_seen = 0
        self._connection = 0
        self._pulling = False

    def start(self) -> None:
        """Begin, after a moment."""
        self.world.loop.after(self.random.random(), self._connect)

    def behind(self) -> bool:
        """Whether something has happened that it was not told."""
        journal = self.cluster.checkers.journal
        return bool(
            journal.between(self.next_revision, journal.head, self.key, self.end)
        )

    # ----- the connection

    def _retry(self) -> None:
        self._connection += 1
        self.world.loop.after(0.05 + 0.3 * self.random.random(), self._connect)

    def _connect(self) -> None:
        node = self.cluster.some_node(self.random)
        if node is None or not node.up or not node.serving:
            self._retry()
            return
        self._connection += 1
        number = self._connection
        slow = self.random.random() < 0.3
        handle = node.connect(lambda: self._broken(number))

        def opened(stream: DirectStream, generation: int) -> None:
            if number != self._connection:
                stream.cancel()
                return
            session = _Session(self, node, stream, number, handle, slow)
            stream.on_event = session.has_more
            request = rpc_pb2.WatchRequest()
            create = request.create_request
            create.key, create.range_end = self.key, self.end
            create.start_revision = self.next_revision
            create.progress_notify = True
            stream.push(request.SerializeToString())
            if self.random.random() < 0.5:
                stream.push(PROGRESS_REQUEST)
            if stream.over:
                self._broken(number)  # Refused at once: a learner does not serve it.

        queue = 3 if slow else 64
        self.world.loop.after(
            self.cluster.network.client_delay(),
            lambda: node.open_stream(WATCH, opened, queue),
        )
        # Now and then a client goes elsewhere; one that never hears anything, too.
        self.world.loop.after(
            1.0 + self.random.expovariate(0.25), lambda: self._leave(node, number)
        )

    def _broken(self, number: int) -> None:
        if number == self._connection:
            self._retry()

    def _leave(self, node: Node, number: int) -> None:
        if number == self._connection:
            self.world.figures["watches resumed"] += 1
            self._retry()

    def live(self, number: int) -> bool:
        """Whether a connection is the one in use."""
        return number == self._connection

    # ----- what it is told

    def take(self, node: Node, number: int, message: bytes) -> None:
        """A response arrives."""
        response = rpc_pb2.WatchResponse.FromString(message)
        if response.created and not response.canceled:
            return
        if response.canceled:
            if response.compact_revision > self.next_revision:
                self.world.figures["watches that met a compaction"] += 1
                self.next_revision = response.compact_revision
            self._retry()
            return
        if response.events:
            self._events(node, response)
        elif response.header.revision >= self.next_revision:
            self._progress(node, response.header.revision)

    def _events(self, node: Node, response: rpc_pb2.WatchResponse) -> None:
        last = response.events[-1].kv.mod_revision
        journal = self.cluster.checkers.journal
        expected = journal.between(self.next_revision, last, self.key, self.end)
        same = len(expected) == len(response.events) and all(
            _matches(change, event)
            for change, event in zip(expected, response.events, strict=False)
        )
        if not same:
            got = [_event_text(event) for event in response.events]
            wanted = [_change_text(change) for change in expected]
            text = (
                f"{self.name} at {node.name} resumed at {self.next_revision} and got "
                f"{got}; what happened is {wanted}"
            )
            raise self.world.violated(WATCH_CONTRACT, text)
        if response.header.revision < last:
            text = f"{self.name} got revision {last} under {response.header.revision}"
            raise self.world.violated(WATCH_CONTRACT, text)
        self.events_seen += len(expected)
        self.world.figures["checked: events watched"] += len(expected)
        if self.world.tracing:
            span = f"{self.next_revision}..{last}"
            self.world.note(self.name, f"{len(expected)} events {span} at {node.name}")
        self.next_revision = last + 1

    def _progress(self, node: Node, revision: int) -> None:
        journal = self.cluster.checkers.journal
        missing = journal.between(self.next_revision, revision, self.key, self.end)
        if missing:
            text = (
                f"{self.name} at {node.name} was told of progress to {revision} but "
                f"never of {[_change_text(change) for change in missing]}"
            )
            raise self.world.violated(WATCH_CONTRACT, text)
        self.world.figures["checked: progress reports"] += 1
        self.next_revision = revision + 1


class _Session:
    """One connection of a watcher: messages in order, each after a delay."""

    def __init__(
        self,
        client: WatchClient,
        node: Node,
        stream: DirectStream,
        number: int,
        handle: int,
        slow: bool,
    ) -> None:
        self._client = client
        self._node = node
        self._stream = stream
        self._number = number
        self._handle = handle
        self._slow = slow
        self._pulling = False

    def has_more(self) -> None:
        """The member queued something, or ended the stream."""
        if not self._pulling:
            self._pulling = True
            client = self._client
            delay = client.cluster.network.client_delay()
            if self._slow:
                delay += 0.5 * client.random.random()
            client.world.loop.after(delay, lambda: self._node.run_here(self._pull))

    def _pull(self) -> None:
        self._pulling = False
        client, stream = self._client, self._stream
        if not client.live(self._number):
            self._node.disconnect(self._handle)
            stream.cancel()
            return
        for _ in range(2 if self._slow else 1000):
            message = stream.take()
            if message is None:
                break
            client.take(self._node, self._number, message)
            if not client.live(self._number):
                return
        if stream.queue:
            self.has_more()
        elif stream.over:
            client._broken(self._number)
        elif client.random.random() < 0.05:
            stream.push(PROGRESS_REQUEST)


def _matches(change: Change, event: kv_pb2.Event) -> bool:
    deleted = event.type == kv_pb2.Event.DELETE
    if change.deleted != deleted or change.key != event.kv.key:
        return False
    if event.kv.mod_revision != change.revision:
        return False
    return deleted or event.kv.SerializeToString() == change.row


def _event_text(event: kv_pb2.Event) -> str:
    kind = "delete" if event.type == kv_pb2.Event.DELETE else "put"
    kv = event.kv
    return f"{kind} {kv.key.decode()}={kv.value.decode()} at {kv.mod_revision}"


def _change_text(change: Change) -> str:
    kind = "delete" if change.deleted else "put"
    value = (change.value() or b"").decode()
    return f"{kind} {change.key.decode()}={value} at {change.revision}"

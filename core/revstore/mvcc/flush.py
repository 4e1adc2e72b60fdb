"""Writing a frozen overlay to the backend in one atomic batch.

Rules of this file:

1. ``run`` may be called on any thread: it touches only the job's own frozen data and
   the backend. Everything else of the store stays on the store's thread.
2. The META row is in the batch, so the backend always says which state it holds.
"""

from __future__ import annotations

from revstore.interfaces.backend import Backend, Durability, WriteBatch
from revstore.mvcc.overlay import Overlay
from revstore.mvcc.records import encode_change
from revstore.mvcc.state import STATE_KEY, StoreState, encode_state
from revstore.mvcc.tables import CURRENT, INDEX, LOG, META, index_key, log_key


class FlushJob:
    """One flush: made by ``Store.begin_flush``, ended by ``Store.end_flush``."""

    __slots__ = ("_backend", "durability", "error", "overlay", "state")

    def __init__(
        self,
        backend: Backend,
        overlay: Overlay,
        state: StoreState,
        durability: Durability,
    ) -> None:
        self._backend = backend
        self.overlay = overlay
        self.state = state
        self.durability = durability
        self.error: BaseException | None = None
        """What ``run`` raised; ``end_flush`` raises it again on the store's thread."""

    def run(self) -> None:
        """Write the batch. Raises: nothing; see ``error``."""
        try:
            self._backend.write(self._batch(), self.durability)
        except BaseException as exc:
            self.error = exc

    def _batch(self) -> WriteBatch:
        overlay = self.overlay
        batch = WriteBatch()
        events = overlay.events
        log = batch.keyspace(LOG)
        log.ascending = True
        log.puts = [
            (log_key(event.revision, event.sub, event.deleted), event.kv)
            for event in events
        ]
        log.deletes = overlay.log_deletes
        index = batch.keyspace(INDEX)
        index.puts = [
            (
                index_key(event.key, event.revision),
                encode_change(pred, event.sub, event.deleted),
            )
            for event, pred in zip(events, overlay.preds, strict=True)
        ]
        index.puts.sort()
        index.deletes = overlay.index_deletes
        current = batch.keyspace(CURRENT)
        for key, row in sorted(overlay.records.items()):
            if row is None:
                current.deletes.append(key)
            else:
                current.puts.append((key, row))
        for name, rows in overlay.system.items():
            keyspace = batch.keyspace(name)
            for key, value in sorted(rows.items()):
                if value is None:
                    keyspace.deletes.append(key)
                else:
                    keyspace.puts.append((key, value))
        batch.put(META, STATE_KEY, encode_state(self.state))
        return batch

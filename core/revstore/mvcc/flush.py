"""Writing a frozen overlay to the backend in one atomic batch.

Rules of this file:

1. ``run`` may be called on any thread: it touches only the job's own frozen data and
   the backend. Everything else of the store stays on the store's thread.
2. The META row is in the batch, so the backend always says which state it holds.
"""

from __future__ import annotations

from time import sleep

from revstore.interfaces.backend import Backend, Durability, Pair, WriteBatch
from revstore.mvcc.overlay import Overlay
from revstore.mvcc.records import change_suffix
from revstore.mvcc.state import STATE_KEY, StoreState, encode_state
from revstore.mvcc.tables import CURRENT, INDEX, LOG, META, index_prefix, log_suffix

_HAND_OVER_EVERY = 256
"""After so many changes the interpreter is handed over, if somebody waits for it: by
itself it changes threads every 5 ms, which a lone writer waits at each step."""


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
        log = batch.keyspace(LOG)
        log.ascending = True
        log.deletes = overlay.log_deletes
        index = batch.keyspace(INDEX)
        index.deletes = overlay.index_deletes
        current = batch.keyspace(CURRENT)
        keys: list[bytes] = []
        changes: list[Pair] = []
        add_row, add_change, add_key = log.puts.append, changes.append, keys.append
        revision, main = 0, b""
        for event, pred in zip(overlay.events, overlay.preds, strict=True):
            if event.revision != revision:
                revision = event.revision
                main = revision.to_bytes(8, "big")
            sub, key = event.sub, event.key
            if sub < _ENDS_MAX and not event.deleted:
                row_end, change_end = _ENDS[sub]
            else:
                row_end, change_end = _ends(sub, event.deleted)
            add_row((main + row_end, event.kv))
            add_change((index_prefix(key) + main, pred + change_end))
            add_key(key)
            if not len(keys) % _HAND_OVER_EVERY:
                sleep(0)
        # The changes of one key keep their order, so its index rows are sorted, too, and
        # one sort serves both keyspaces. A key in ``records`` without a change is as in
        # the layer below.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        index.puts = [changes[position] for position in order]
        changed = dict.fromkeys([keys[position] for position in order])
        records = overlay.records
        current.puts = [
            (key, row) for key in changed if (row := records[key]) is not None
        ]
        if len(current.puts) < len(changed):
            current.deletes = [key for key in changed if records[key] is None]
        for name, rows in overlay.system.items():
            keyspace = batch.keyspace(name)
            for key, value in sorted(rows.items()):
                if value is None:
                    keyspace.deletes.append(key)
                else:
                    keyspace.puts.append((key, value))
        batch.put(META, STATE_KEY, encode_state(self.state))
        return batch


def _ends(sub: int, deleted: bool) -> tuple[bytes, bytes]:
    """How a change's row key in LOG and its value in INDEX end."""
    return log_suffix(sub, deleted), change_suffix(sub, deleted)


_ENDS_MAX = 1024
_ENDS = [_ends(sub, False) for sub in range(_ENDS_MAX)]
"""Those of puts, by sub."""

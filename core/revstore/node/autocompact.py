"""Automatic compaction, as etcd does it (etcd operations guide, "History compaction").

*periodic*: the revision is sampled ten times a period of min(retention, 1 h); once
``retention`` has passed, every such period compacts to the revision of one retention
ago, unless nothing changed. *revision*: every five minutes compact to the current
revision less ``retention``. Only the leader does it.
"""

from __future__ import annotations

from collections import deque

REVISION_INTERVAL_S = 300.0
PERIOD_MAX_S = 3600.0
SAMPLES_A_PERIOD = 10


class AutoCompactor:
    """Says when to compact, and to which revision. A value machine: time comes in."""

    def __init__(self, mode: str, retention: float, now: float) -> None:
        """``retention``: seconds in mode "periodic", revisions in "revision"."""
        self._mode = mode
        self._retention = retention
        self._last = 0
        if mode == "revision":
            self._interval = REVISION_INTERVAL_S
        else:
            self._interval = min(retention, PERIOD_MAX_S) / SAMPLES_A_PERIOD
        self._next = now + self._interval
        self._period = min(retention, PERIOD_MAX_S)
        self._next_compaction = now + retention
        self._samples: deque[tuple[float, int]] = deque()

    def tick(self, now: float, revision: int) -> int | None:
        """The revision to compact to now, None if it is not time or not needed."""
        if now < self._next:
            return None
        self._next = now + self._interval
        if self._mode == "revision":
            return self._target(revision - int(self._retention))
        self._samples.append((now, revision))
        if now < self._next_compaction:
            return None
        self._next_compaction = now + self._period
        wanted = 0
        while self._samples and self._samples[0][0] <= now - self._retention:
            wanted = self._samples.popleft()[1]
        return self._target(wanted)

    def _target(self, revision: int) -> int | None:
        if revision <= 0 or revision == self._last:
            return None
        self._last = revision
        return revision

    def failed(self) -> None:
        """The last compaction did not happen: try the same one again."""
        self._last = 0

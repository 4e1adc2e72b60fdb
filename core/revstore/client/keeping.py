"""When which lease is renewed, and when one must be given up.

Rules of this file:

1. A value machine: times come from outside, answers come in, nothing here waits.
2. A lease lives for its time to live from the moment a renewal was *sent* that was
   answered: the member renewed it then or later. So a lease that is called alive here
   is alive at the member, if clocks run at about one speed.
3. A renewal is sent after a third of the time to live, and again after a pause while
   there is no answer.
4. A lease is lost when a member says so, or when its time is up without an answer.
"""

from __future__ import annotations

from enum import StrEnum

RENEW_PART = 1 / 3
"""Of the time to live, after which a lease is renewed."""
RESEND_S = 1.0
"""How long to wait for an answer before asking again, at most."""


class Loss(StrEnum):
    """Why a lease is lost."""

    GONE = "it expired or was revoked"
    TIME_UP = "no member answered in time"


class _Kept:
    __slots__ = ("alive_until", "send_at", "sent", "ttl_s")

    def __init__(self, ttl_s: float, alive_at: float) -> None:
        self.ttl_s = ttl_s
        self.alive_until = alive_at + ttl_s
        self.send_at = alive_at + ttl_s * RENEW_PART
        self.sent: list[float] = []
        """When the renewals were sent that have no answer; the oldest first."""


class Keeping:
    """The leases of one client that are kept alive."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, lease_id: int, ttl_s: float, alive_at: float) -> None:
        """Keep a lease that had all of its time to live at ``alive_at``."""
        self._kept[lease_id] = _Kept(ttl_s, alive_at)

    def remove(self, lease_id: int) -> None:
        """Let a lease go."""
        self._kept.pop(lease_id, None)

    def alive_until(self, lease_id: int) -> float:
        """Until when the lease surely lives; 0 for one that is not kept."""
        kept = self._kept.get(lease_id)
        return 0.0 if kept is None else kept.alive_until

    def due(self, now: float) -> list[int]:
        """The leases to renew now; counts as sent."""
        found = []
        for lease_id, kept in self._kept.items():
            if kept.send_at <= now:
                found.append(lease_id)
                kept.sent.append(now)
                kept.send_at = now + min(RESEND_S, kept.ttl_s * RENEW_PART)
        return found

    def answered(self, lease_id: int, ttl_s: int) -> Loss | None:
        """A member answered a renewal; whether the lease is lost."""
        kept = self._kept.get(lease_id)
        if kept is None:
            return None
        if ttl_s <= 0:
            del self._kept[lease_id]
            return Loss.GONE
        if kept.sent:
            # Answers come in order, and one that was sent before counts from then.
            sent = kept.sent.pop(0)
            kept.ttl_s = ttl_s
            kept.alive_until = max(kept.alive_until, sent + ttl_s)
            if not kept.sent:
                kept.send_at = sent + ttl_s * RENEW_PART
        return None

    def stream_lost(self, now: float) -> None:
        """Renewals on their way are not answered any more: send them again at once."""
        for kept in self._kept.values():
            if kept.sent:
                kept.sent.clear()
                kept.send_at = min(kept.send_at, now)

    def expired(self, now: float) -> list[int]:
        """The leases whose time is up; they are kept no longer."""
        found = [
            lease_id for lease_id, kept in self._kept.items() if kept.alive_until <= now
        ]
        for lease_id in found:
            del self._kept[lease_id]
        return found

    def overdue(self, now: float) -> bool:
        """Whether an answer is so late that another member should be asked."""
        return any(
            kept.sent and now - kept.sent[0] >= kept.ttl_s * RENEW_PART
            for kept in self._kept.values()
        )

    def next_due(self, *, sending: bool = True) -> float | None:
        """When ``expired`` has something next, or ``due`` if there is ``sending``."""
        times = [kept.alive_until for kept in self._kept.values()]
        if sending:
            times += [kept.send_at for kept in self._kept.values()]
        return min(times, default=None)

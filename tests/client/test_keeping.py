"""When leases are renewed, and when they count as lost."""

from __future__ import annotations

from revstore.client.keeping import Keeping, Loss

LEASE = 7


def kept(ttl_s: float = 9.0) -> Keeping:
    """A lease that was granted by a call sent at 0."""
    keeping = Keeping()
    keeping.add(LEASE, ttl_s, 0.0)
    return keeping


def test_a_lease_is_renewed_after_a_third_of_its_time() -> None:
    """And after each answer again, counted from the sending."""
    keeping = kept()
    assert keeping.due(2.99) == []
    assert keeping.due(3.0) == [LEASE]
    assert keeping.answered(LEASE, 9) is None
    assert keeping.due(5.99) == []
    assert keeping.due(6.0) == [LEASE]


def test_without_an_answer_it_is_asked_again() -> None:
    """After a second, or less for a short lease."""
    keeping = kept()
    assert keeping.due(3.0) == [LEASE]
    assert keeping.due(3.5) == []
    assert keeping.due(4.0) == [LEASE]
    short = kept(1.5)
    assert short.due(0.5) == [LEASE]
    assert short.due(1.0) == [LEASE]


def test_time_counts_from_the_sending() -> None:
    """An answer that was long under way does not make the lease live longer."""
    keeping = kept()
    keeping.due(3.0)
    keeping.answered(LEASE, 9)
    assert keeping.alive_until(LEASE) == 12.0
    assert keeping.expired(11.9) == []
    assert keeping.expired(12.0) == [LEASE]
    assert len(keeping) == 0


def test_an_answer_counts_for_the_oldest_question() -> None:
    """Which of two was answered cannot be told: the earlier one is the safe choice."""
    keeping = kept()
    keeping.due(3.0)
    keeping.due(4.0)
    keeping.answered(LEASE, 9)
    assert keeping.alive_until(LEASE) == 12.0
    keeping.answered(LEASE, 9)
    assert keeping.alive_until(LEASE) == 13.0


def test_a_member_that_says_gone_is_believed() -> None:
    """Time to live 0: the lease expired or was revoked."""
    keeping = kept()
    keeping.due(3.0)
    assert keeping.answered(LEASE, 0) is Loss.GONE
    assert keeping.answered(LEASE, 0) is None
    assert keeping.next_due() is None


def test_a_broken_stream_has_the_renewal_sent_again() -> None:
    """At once if one was on its way, else in its turn."""
    keeping = kept()
    keeping.stream_lost(1.0)
    assert keeping.due(2.9) == []
    assert keeping.due(3.0) == [LEASE]
    keeping.stream_lost(3.2)
    assert keeping.due(3.2) == [LEASE]
    assert keeping.alive_until(LEASE) == 9.0


def test_a_late_answer_calls_for_another_member() -> None:
    """While there is still time to ask one."""
    keeping = kept()
    assert not keeping.overdue(8.0)
    keeping.due(3.0)
    assert not keeping.overdue(5.9)
    assert keeping.overdue(6.0)
    keeping.stream_lost(6.0)
    assert not keeping.overdue(6.0)


def test_a_longer_time_to_live_is_taken_over() -> None:
    """The member says how long the lease lives."""
    keeping = kept(3.0)
    keeping.due(1.0)
    keeping.answered(LEASE, 30)
    assert keeping.alive_until(LEASE) == 31.0
    assert keeping.due(10.9) == []
    assert keeping.due(11.0) == [LEASE]


def test_the_next_moment() -> None:
    """The sooner of sending and giving up; only giving up while nothing can be sent."""
    keeping = kept()
    assert keeping.next_due() == 3.0
    assert keeping.next_due(sending=False) == 9.0
    keeping.remove(LEASE)
    assert keeping.next_due() is None
    assert keeping.alive_until(LEASE) == 0.0

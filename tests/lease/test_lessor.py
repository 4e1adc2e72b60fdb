"""Deadlines of the primary."""

from __future__ import annotations

from random import Random

import pytest

from revstore.lease import lessor as lessor_module
from revstore.lease.lessor import Lessor
from tests.lease.support import Leases


def drain(leases: Leases) -> list[int]:
    """Revoke all that has expired, as a shell does; the ids in their order."""
    revoked = []
    for _ in range(10_000):
        found = leases.lessor.expired()
        for lease_id in found:
            leases.revoke(lease_id)
        revoked += found
        deadline = leases.lessor.next_deadline()
        if deadline is None or deadline > leases.clock.time:
            return revoked
    raise AssertionError("expiry never comes to an end")


def test_remaining_time_is_rounded_down(leases: Leases) -> None:
    """A lease of 100 s has 99 whole seconds left at once after it was granted."""
    leases.grant(1, 100)
    leases.pass_time(0.001)
    assert leases.lessor.time_to_live(1) == (99, 100)
    leases.pass_time(99.5)
    assert leases.lessor.time_to_live(1) == (0, 100)
    leases.pass_time(50)
    assert leases.lessor.time_to_live(1) == (0, 100)
    assert leases.lessor.time_to_live(9) is None


def test_a_lease_expires_once_its_time_is_up(leases: Leases) -> None:
    """Not before, and it is handed out once."""
    leases.grant(1, 10)
    assert leases.lessor.next_deadline() == 1010.0
    leases.pass_time(9.999)
    assert leases.lessor.expired() == []
    leases.pass_time(0.001)
    assert leases.lessor.expired() == [1]
    assert leases.lessor.expired() == []
    assert leases.lessor.next_deadline() is None


def test_a_renewal_starts_the_time_anew(leases: Leases) -> None:
    """A renewed lease lives its full time from then on."""
    leases.grant(1, 10)
    leases.pass_time(9)
    assert leases.lessor.renew(1) == 10
    leases.pass_time(9)
    assert leases.lessor.expired() == []
    assert leases.lessor.next_deadline() == 1019.0
    leases.pass_time(1)
    assert leases.lessor.expired() == [1]


def test_a_dead_lease_cannot_be_renewed(leases: Leases) -> None:
    """etcd 20615: success was reported for a lease that was being revoked; here 0 is
    the answer as soon as the time is up, also after a revocation that failed."""
    assert leases.lessor.renew(1) == 0
    leases.grant(1, 10)
    leases.pass_time(10)
    assert leases.lessor.renew(1) == 0
    assert leases.lessor.expired() == [1]
    assert leases.lessor.renew(1) == 0
    leases.lessor.revoke_failed(1)
    assert leases.lessor.renew(1) == 0
    leases.revoke(1)
    assert leases.lessor.renew(1) == 0


def test_a_failed_revocation_is_tried_again(leases: Leases) -> None:
    """After three seconds, not at once."""
    leases.grant(1, 10)
    leases.pass_time(10)
    assert leases.lessor.expired() == [1]
    leases.lessor.revoke_failed(1)
    leases.lessor.revoke_failed(1)
    assert leases.lessor.expired() == []
    leases.pass_time(3)
    assert leases.lessor.expired() == [1]
    leases.revoke(1)
    leases.lessor.revoke_failed(1)
    assert leases.lessor.next_deadline() is None


def test_only_so_many_are_revoked_at_once(leases: Leases) -> None:
    """No more than 16 are out; each that is done makes room for another."""
    for lease_id in range(1, 41):
        leases.grant(lease_id, 10)
    leases.pass_time(10)
    first = leases.lessor.expired(500)
    assert len(first) == 16
    assert leases.lessor.expired(500) == []
    assert leases.lessor.next_deadline() is None
    for lease_id in first[:4]:
        leases.revoke(lease_id)
    assert len(leases.lessor.expired(3)) == 3
    assert len(leases.lessor.expired()) == 1


def test_only_so_many_are_revoked_per_round(leases: Leases) -> None:
    """500 per half second, however quickly the revocations come about."""
    for lease_id in range(1, 1202):
        leases.grant(lease_id, 10)
    leases.pass_time(10)
    counts = []
    while leases.rows():
        counts.append(len(drain(leases)))
        deadline = leases.lessor.next_deadline()
        if deadline is not None:
            assert deadline == pytest.approx(leases.clock.time + 0.5)
        leases.pass_time(0.5)
    assert counts == [500, 500, 201]


def test_renewing_does_not_fill_the_queue(leases: Leases) -> None:
    """Keeping many leases alive for long needs no more memory, and none expires."""
    for lease_id in range(1, 101):
        leases.grant(lease_id, 10)
    for _ in range(500):
        leases.pass_time(1)
        for lease_id in range(1, 101):
            assert leases.lessor.renew(lease_id) == 10
        assert leases.lessor.expired() == []
    assert len(leases.lessor._queue) == 100


def test_leases_that_come_and_go_do_not_fill_the_queue(leases: Leases) -> None:
    """Revoked leases with far deadlines are forgotten; an id used again is its own
    lease."""
    for _ in range(2000):
        leases.grant(1, 100_000)
        leases.revoke(1)
    assert len(leases.lessor._queue) < 100
    leases.grant(1, 10)
    leases.revoke(1)
    leases.grant(1, 20)
    leases.pass_time(15)
    assert leases.lessor.expired() == []
    leases.pass_time(5)
    assert leases.lessor.expired() == [1]


def test_others_than_the_primary_expire_nothing(leases: Leases) -> None:
    """etcd 15247: a member that no longer leads stops revoking at once; what it had
    handed out is forgotten, and it renews nothing."""
    leases.grant(1, 10)
    leases.grant(2, 10)
    leases.pass_time(10)
    assert leases.lessor.expired(1) == [1]
    leases.lessor.demote()
    assert leases.lessor.expired() == []
    assert leases.lessor.next_deadline() is None
    assert leases.lessor.renew(2) == 0
    assert leases.lessor.time_to_live(2) == (10, 10)
    leases.lessor.revoke_failed(1)
    leases.grant(3, 10)
    leases.pass_time(1000)
    assert leases.lessor.expired() == []


def test_a_new_primary_gives_full_time_and_more(leases: Leases) -> None:
    """A lease may live longer than granted over a change of leader, never shorter."""
    leases.grant(1, 10)
    leases.grant(2, 60)
    leases.pass_time(9)
    leases.lessor.promote(1.5)
    assert leases.lessor.time_to_live(1) == (11, 10)
    assert leases.lessor.renew(1) == 10
    assert leases.lessor.time_to_live(1) == (11, 10)
    leases.pass_time(11.4)
    assert leases.lessor.expired() == []
    leases.pass_time(0.2)
    assert leases.lessor.expired() == [1]
    leases.lessor.promote(1.5)
    assert leases.lessor.renew(1) == 10


def test_leases_are_loaded_again(leases: Leases) -> None:
    """A restarted member and one that installed a snapshot know all leases."""
    leases.grant(1, 10)
    leases.grant(2, 60)
    other = leases.open_lessor()
    assert other.leases() == [1, 2]
    assert not other.is_primary
    other.promote(0)
    assert other.leases() == [1, 2]
    leases.revoke(1)
    other.reload()
    assert not other.is_primary
    assert other.leases() == [2]


def test_leases_are_listed_by_expiry(leases: Leases) -> None:
    """Those that expire first come first."""
    leases.grant(1, 30)
    leases.grant(2, 10)
    leases.grant(3, 20)
    leases.pass_time(5)
    leases.lessor.renew(2)
    assert leases.lessor.leases() == [2, 3, 1]
    leases.pass_time(9)
    leases.lessor.renew(2)
    assert leases.lessor.leases() == [3, 2, 1]


@pytest.mark.parametrize(("count", "spread"), [(998, False), (1500, True)])
def test_a_pile_is_spread(leases: Leases, count: int, spread: bool) -> None:
    """When more would expire together than can be revoked, a new primary spreads them
    to 750 per second, none earlier than it would have been."""
    for lease_id in range(1, count + 1):
        leases.grant(lease_id, 10)
    leases.grant(count + 1, 100)
    leases.lessor.promote(1)
    deadlines = sorted(one.deadline for one in leases.lessor._leases.values())
    assert deadlines[0] == 1011.0
    assert deadlines[-1] == 1101.0
    piled = deadlines[:-1]
    if not spread:
        assert set(piled) == {1011.0}
        return
    for start in range(0, count - 751, 50):
        assert piled[start + 750] - piled[start] == pytest.approx(1.0)


def test_ids_are_positive_and_unused(leases: Leases) -> None:
    """Ids made here fit in 63 bits, are not 0 and not in use."""

    answers = [0, 7, 8]

    class Scripted(Random):
        def getrandbits(self, bits: int, /) -> int:
            assert bits == 63
            return answers.pop(0)

    leases.grant(7, 10)
    lessor = Lessor(leases.store, leases.clock, random=Scripted())
    assert lessor.make_id() == 8


def test_work_per_call_is_bounded(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewed leases that come up early are looked at in parts; the next deadline says
    that there is more."""
    monkeypatch.setattr(lessor_module, "EXAMINED_MAX", 10)
    for lease_id in range(1, 26):
        leases.grant(lease_id, 10)
    leases.pass_time(5)
    for lease_id in range(1, 25):
        leases.lessor.renew(lease_id)
    leases.pass_time(5)
    found = []
    for _ in range(2):
        found += leases.lessor.expired()
        deadline = leases.lessor.next_deadline()
        assert deadline is not None
        assert deadline <= leases.clock.time
    found += leases.lessor.expired()
    assert found == [25]


# Checkpoints.


def test_long_leases_are_checkpointed(checkpointed: Leases) -> None:
    """Every five minutes, with what is left rounded up; short leases never."""
    leases = checkpointed
    leases.grant(1, 1000)
    leases.grant(2, 300)
    assert leases.lessor.checkpoints() == []
    assert leases.lessor.next_deadline() == 1300.0
    leases.pass_time(300.25)
    (found,) = leases.lessor.checkpoints()
    assert (found.ID, found.remaining_TTL) == (1, 700)
    assert leases.lessor.checkpoints() == []
    leases.pass_time(300)
    (found,) = leases.lessor.checkpoints()
    assert (found.ID, found.remaining_TTL) == (1, 400)


def test_checkpoints_go_on_after_a_renewal(checkpointed: Leases) -> None:
    """A lease that was nearly over and is renewed is checkpointed again later."""
    leases = checkpointed
    leases.grant(1, 600)
    for _ in range(5):
        leases.pass_time(299)
        assert leases.lessor.renew(1) == 600
        leases.pass_time(1)
        (found,) = leases.lessor.checkpoints()
        assert found.remaining_TTL == 599


def test_checkpoints_are_off_by_default(leases: Leases) -> None:
    """Without the option nothing is ever due."""
    leases.grant(1, 1000)
    leases.pass_time(400)
    assert leases.lessor.checkpoints() == []
    assert leases.lessor.next_deadline() == 2000.0


def test_checkpoints_come_in_portions(checkpointed: Leases) -> None:
    """One request has a bounded number of them."""
    leases = checkpointed
    for lease_id in range(1, 26):
        leases.grant(lease_id, 1000)
    leases.pass_time(300)
    assert [len(leases.lessor.checkpoints(10)) for _ in range(4)] == [10, 10, 5, 0]


def test_a_renewal_waits_for_its_checkpoint(checkpointed: Leases) -> None:
    """An old checkpoint, applied or on its way, would give a renewed lease too little
    time on the next primary; until a newer one of 0 is applied the renewal must wait.
    """
    leases = checkpointed
    leases.grant(1, 1000)
    assert not leases.lessor.must_checkpoint(1)
    leases.pass_time(300)
    (found,) = leases.lessor.checkpoints()
    assert leases.lessor.must_checkpoint(1)
    leases.checkpoint((1, found.remaining_TTL))
    assert leases.lessor.must_checkpoint(1)
    leases.checkpoint((1, 0))
    assert not leases.lessor.must_checkpoint(1)
    assert not leases.lessor.must_checkpoint(99)


# All together.


@pytest.mark.parametrize("seed", range(20))
def test_no_lease_dies_early_or_lives_for_ever(seed: int) -> None:
    """Random grants, renewals, failures and changes of leader: a lease is handed out
    only after its full time since the last renewal or promotion, and soon after that.
    """
    random = Random(seed)
    leases = Leases(checkpoints=random.random() < 0.5)
    lessor = leases.lessor
    lessor.promote(0)
    earliest: dict[int, float] = {}
    ttls: dict[int, int] = {}
    out: set[int] = set()
    next_id = 1
    note = f"replay: .venv/bin/pytest -n 0 tests/lease/test_lessor.py -k 'early and {seed}'"
    for _ in range(600):
        now = leases.clock.time
        action = random.random()
        if action < 0.25:
            ttl = random.choice((2, 5, 30, 400, 1000))
            leases.grant(next_id, ttl)
            ttls[next_id], earliest[next_id] = ttl, now + ttl
            next_id += 1
        elif action < 0.55 and ttls:
            lease_id = random.choice(list(ttls))
            if lessor.must_checkpoint(lease_id):
                leases.checkpoint((lease_id, 0))
            if lessor.renew(lease_id):
                assert now < earliest[lease_id], note
                assert lease_id not in out, note
                earliest[lease_id] = max(earliest[lease_id], now + ttls[lease_id])
            else:
                assert now >= earliest[lease_id], note
        elif action < 0.6:
            for found in lessor.checkpoints():
                leases.checkpoint((found.ID, found.remaining_TTL))
        elif action < 0.62:
            remaining = {one: rest for one, (_, rest) in leases.rows().items()}
            lessor.promote(1.0)
            out.clear()
            for lease_id, ttl in ttls.items():
                again = now + 1.0 + (remaining[lease_id] or ttl)
                assert again >= earliest[lease_id] - 1e-9, note
                earliest[lease_id] = again
        else:
            leases.pass_time(random.choice((0.1, 1.0, 5.0, 100.0)))
        for lease_id in lessor.expired():
            assert leases.clock.time >= earliest[lease_id], note
            assert lease_id not in out, note
            out.add(lease_id)
        for lease_id in list(out):
            if random.random() < 0.5:
                leases.revoke(lease_id)
                del ttls[lease_id], earliest[lease_id]
            else:
                lessor.revoke_failed(lease_id)
            out.remove(lease_id)
    leases.pass_time(10_000)
    for _ in range(2000):
        for lease_id in lessor.expired():
            leases.revoke(lease_id)
        leases.pass_time(1)
    assert leases.rows() == {}, note
    leases.store.close()

"""Grants, revocations and checkpoints, and what is left of them in the store."""

from __future__ import annotations

import pytest

from revstore.api import errors
from revstore.errors import ApiError
from tests.lease.support import Leases


def test_a_grant_is_a_row_and_moves_no_revision(leases: Leases) -> None:
    """A lease is stored with its time to live; the revision stays."""
    assert leases.grant(42, 100) == 100
    assert leases.rows() == {42: (100, 0)}
    assert leases.store.revision == 1
    assert leases.store.lease_exists(42)


@pytest.mark.parametrize("asked", [0, -5, 1, 2])
def test_the_least_time_to_live(leases: Leases, asked: int) -> None:
    """What is below the minimum, also nothing and negative, is raised and returned."""
    assert leases.grant(1, asked) == 2
    assert leases.rows() == {1: (2, 0)}


def test_negative_ids(leases: Leases) -> None:
    """etcd 14239: a negative id is an id like any other, in rows, keys and answers."""
    assert leases.grant(-3, 100) == 100
    leases.put(b"a", -3)
    assert leases.store.lease_keys(-3) == [b"a"]
    assert leases.lessor.renew(-3) == 100
    assert leases.open_lessor().leases() == [-3]
    leases.revoke(-3)
    assert leases.store.get(b"a") is None
    assert not leases.store.lease_exists(-3)


def test_refused_grants_change_nothing(leases: Leases) -> None:
    """Id 0, an id in use and too long a time are errors of their own."""
    leases.grant(1, 100)
    for lease_id, ttl, error in (
        (0, 100, errors.LEASE_NOT_FOUND),
        (1, 100, errors.LEASE_EXIST),
        (2, 9_000_000_001, errors.LEASE_TTL_TOO_LARGE),
        (1, 9_000_000_001, errors.LEASE_TTL_TOO_LARGE),
    ):
        with pytest.raises(ApiError) as caught:
            leases.grant(lease_id, ttl)
        assert caught.value == error
    assert leases.rows() == {1: (100, 0)}
    assert leases.grant(2, 9_000_000_000) == 9_000_000_000


def test_a_revocation_deletes_its_keys_in_order(leases: Leases) -> None:
    """All keys go in one revision, sorted; the row goes with them (etcd 13205: leases
    leaked when row and keys were not changed together)."""
    leases.grant(1, 100)
    leases.grant(2, 100)
    for key in (b"c", b"a", b"b"):
        leases.put(key, 1)
    leases.put(b"other", 2)
    leases.put(b"b", 2)
    leases.store.drain_events()
    assert leases.revoke(1).revision == 7
    events = leases.store.drain_events()
    assert [(one.key, one.revision, one.sub, one.deleted) for one in events] == [
        (b"a", 7, 0, True),
        (b"c", 7, 1, True),
    ]
    assert leases.rows() == {2: (100, 0)}
    assert leases.store.lease_keys(2) == [b"b", b"other"]
    assert leases.lessor.time_to_live(1) is None


def test_revoking_without_keys_moves_no_revision(leases: Leases) -> None:
    """A lease without keys leaves no trace; a second revocation finds nothing."""
    leases.grant(1, 100)
    leases.revoke(1)
    assert leases.store.revision == 1
    assert leases.rows() == {}
    with pytest.raises(ApiError) as caught:
        leases.revoke(1)
    assert caught.value == errors.LEASE_NOT_FOUND
    leases.grant(1, 50)
    assert leases.lessor.time_to_live(1) == (50, 50)


def test_a_checkpoint_is_stored(leases: Leases) -> None:
    """etcd 13508, 13491: the remaining time is part of the row, survives a restart and
    is what a new primary gives; 0 takes it back. Unknown leases are passed over."""
    leases.grant(1, 1000)
    leases.checkpoint((99, 5), (1, 400))
    assert leases.rows() == {1: (1000, 400)}
    other = leases.open_lessor()
    other.promote(0)
    assert other.time_to_live(1) == (400, 1000)
    leases.checkpoint((1, 0))
    assert leases.rows() == {1: (1000, 0)}
    other = leases.open_lessor()
    other.promote(0)
    assert other.time_to_live(1) == (1000, 1000)


def test_members_that_are_not_primary_apply_alike(leases: Leases) -> None:
    """Deadlines do not show in the store: a follower ends with the same rows."""
    other = Leases()
    for one in (leases, other):
        one.grant(1, 10)
        one.grant(2, 10)
        one.put(b"a", 1)
    leases.pass_time(1000)
    assert leases.lessor.expired() == [1, 2]
    for one in (leases, other):
        one.checkpoint((2, 3))
        one.revoke(1)
    assert leases.rows() == other.rows() == {2: (10, 3)}
    assert leases.store.hash_kv() == other.store.hash_kv()
    other.store.close()

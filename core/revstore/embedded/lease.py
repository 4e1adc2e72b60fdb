"""Leases of the embedded store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import SystemRandom
from types import TracebackType
from typing import TYPE_CHECKING, Self

from revstore.api import errors
from revstore.embedded.requests import grant_request
from revstore.embedded.shell import EmbeddedShell
from revstore.errors import ApiError
from revstore.lease.lessor import TTL_MAX_S
from revstore.proto import rpc_pb2

if TYPE_CHECKING:
    from revstore.embedded.store import EmbeddedStore


def local_grant(
    ttl_s: int, lease_id: int, taken: Callable[[int], bool]
) -> rpc_pb2.LeaseGrantRequest:
    """The request for a lease; id 0 means "choose one that is not ``taken``".

    Raises:
        UsageError: the time to live is no whole number.
        ApiError: it is too large.
    """
    request = grant_request(ttl_s, lease_id)
    if ttl_s > TTL_MAX_S:
        raise errors.LEASE_TTL_TOO_LARGE.fresh()
    random = SystemRandom()
    while request.ID == 0:
        candidate = random.getrandbits(63)
        if not taken(candidate):
            request.ID = candidate
    return request


def renew(shell: EmbeddedShell, lease_id: int) -> int:
    """Renew a lease in place; 0 if it is gone. Raises: Unavailable."""
    with shell.lock:
        return shell.replica.lessor.renew(lease_id)


class RevokedAtEnd(ABC):
    """A lease that a ``with`` block revokes at its end, unless it is gone by then."""

    @abstractmethod
    def revoke(self) -> None:
        """End the lease and delete its keys."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self.revoke()
        except ApiError as error:
            if error != errors.LEASE_NOT_FOUND:
                raise


class Lease(RevokedAtEnd):
    """A granted lease; as a context manager it is revoked at the end."""

    def __init__(self, store: EmbeddedStore, lease_id: int, ttl_s: int) -> None:
        self._store = store
        self.id = lease_id
        self.ttl_s = ttl_s
        """Seconds granted; the server may have raised what was asked for."""

    def keep_alive(self) -> int:
        """Renew; the time to live in seconds, 0 if the lease is gone."""
        return self._store.keep_alive(self.id)

    def revoke(self) -> None:
        """End the lease and delete its keys.

        Raises:
            ApiError: NOT_FOUND if it is gone already.
        """
        self._store.revoke(self.id)

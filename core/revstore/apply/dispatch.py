"""From a committed request to the function that applies it.

Rules of this file:

1. Applying is deterministic: it reads the store and the request, no clock and no
   randomness. All members come to the same result, errors included.
2. An error is decided before the first change; after that nothing may fail but the disk.
3. Order of the checks: alarms, then permissions, then the request's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from revstore.api.replica import Tag
from revstore.apply import kv, txn
from revstore.apply.alarms import RANGE, Alarms
from revstore.apply.cluster import Cluster
from revstore.apply.puts import PlainPuts
from revstore.auth.info import Identity
from revstore.auth.store import AUTH_APPLY, AuthStore
from revstore.errors import ApiError
from revstore.lease import apply as lease_apply
from revstore.lease.lessor import Lessor
from revstore.mvcc.store import Store
from revstore.types import ApplyResult

Apply = Callable[[Any], ApplyResult]

NOTHING = ApplyResult(0)


class StateMachine:
    """Everything that committed entries change."""

    def __init__(
        self,
        store: Store,
        lessor: Lessor,
        auth: AuthStore,
        alarms: Alarms,
        cluster: Cluster,
    ) -> None:
        self.store = store
        self.lessor = lessor
        self.auth = auth
        self.alarms = alarms
        self.cluster = cluster
        self._functions: dict[int, Apply] = {
            RANGE: lambda request: kv.apply_range(store, request),
            Tag.PUT: lambda request: kv.apply_put(store, request),
            Tag.DELETE_RANGE: lambda request: kv.apply_delete_range(store, request),
            Tag.TXN: self._apply_txn,
            Tag.COMPACTION: lambda request: kv.apply_compaction(store, request),
            Tag.LEASE_GRANT: lambda request: lease_apply.apply_grant(
                store, lessor, request
            ),
            Tag.LEASE_REVOKE: lambda request: lease_apply.apply_revoke(
                store, lessor, request
            ),
            Tag.ALARM: alarms.apply,
            Tag.LEASE_CHECKPOINT: lambda request: lease_apply.apply_checkpoint(
                store, lessor, request
            ),
            Tag.CLUSTER_VERSION_SET: self._set_version,
            Tag.CLUSTER_MEMBER_ATTR_SET: self._set_attributes,
            Tag.DOWNGRADE_INFO_SET: self._set_downgrade,
        }
        for tag, function in AUTH_APPLY.items():
            self._functions[tag] = self._auth_function(function)

    def _auth_function(
        self, function: Callable[[AuthStore, Any], ApplyResult]
    ) -> Apply:
        return lambda request: function(self.auth, request)

    def _apply_txn(self, request: Any) -> ApplyResult:
        if type(request) is PlainPuts:
            return txn.apply_puts(self.store, request.items)
        return txn.apply_txn(self.store, request)

    def _set_version(self, request: Any) -> ApplyResult:
        self.cluster.set_version(request.ver)
        return NOTHING

    def _set_attributes(self, request: Any) -> ApplyResult:
        self.cluster.set_attributes(request)
        return NOTHING

    def _set_downgrade(self, request: Any) -> ApplyResult:
        self.cluster.set_downgrade(request)
        return NOTHING

    def apply(
        self, tag: int, request: Any, info: Identity | None
    ) -> ApplyResult | ApiError:
        """Apply one request; the error it deserves is returned, not raised.

        A request of a kind that this version does not know does nothing, as in etcd.
        """
        function = self._functions.get(tag)
        if function is None:
            return NOTHING
        try:
            if self.alarms.any or self.auth.enabled:
                refusal = self._refusal(tag, request, info)
                if refusal is not None:
                    return refusal
            return function(request)
        except ApiError as exc:
            # The traceback knows the frames of all callers, one of which will hold the
            # error: a cycle, with the request in it.
            exc.__traceback__ = None
            return exc

    def _refusal(
        self, tag: int, request: Any, info: Identity | None
    ) -> ApiError | None:
        """What rule 3 says before the request's own checks. Raises: ApiError."""
        message = request.message() if type(request) is PlainPuts else request
        if self.alarms.any:
            refusal = self.alarms.refusal(tag, message)
            if refusal is not None:
                return refusal
        if self.auth.enabled:
            self.auth.check_apply(info, tag, message)
        return None

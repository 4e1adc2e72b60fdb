"""Maintenance.Downgrade: whether and that a cluster goes one minor version back.

Rules of this file:

1. The target is exactly one minor version below the cluster's.
2. One downgrade at a time; CANCEL without one is an error.
"""

from __future__ import annotations

from functools import partial

from revstore.api import errors
from revstore.api.messages import identify_admin, parse
from revstore.api.replica import AuthInfo, Replica, Tag
from revstore.api.validation import parse_version
from revstore.errors import ApiError
from revstore.interfaces.transport import Call
from revstore.proto import membership_pb2, rpc_pb2
from revstore.types import ApplyResult

_Request = rpc_pb2.DowngradeRequest
_parse = _Request.FromString


class Downgrades:
    """The method Downgrade."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def downgrade(self, call: Call, message: bytes) -> None:
        """Downgrade; validated behind a read barrier, as in etcd."""
        try:
            request = parse(_parse, message)
            info = identify_admin(self._replica, call)
            _check_action(int(request.action))
        except ApiError as error:
            call.fail(error)
            return
        self._replica.read(partial(self._decide, call, request, info))

    def _decide(
        self,
        call: Call,
        request: rpc_pb2.DowngradeRequest,
        info: AuthInfo | None,
        error: ApiError | None,
    ) -> None:
        if error is not None:
            call.fail(error)
            return
        try:
            if request.action == _Request.CANCEL:
                version = self._check_cancel()
                wanted = membership_pb2.DowngradeInfoSetRequest(enabled=False)
            else:
                version, target = self._check_target(request.version)
                wanted = membership_pb2.DowngradeInfoSetRequest(
                    enabled=True, ver=target
                )
        except ApiError as refused:
            call.fail(refused)
            return
        if request.action == _Request.VALIDATE:
            self._reply(call, version)
            return
        self._replica.propose(
            int(Tag.DOWNGRADE_INFO_SET),
            wanted.SerializeToString(),
            wanted,
            partial(self._done, call, version),
            info,
        )

    def _check_target(self, asked: str) -> tuple[str, str]:
        """The cluster's version and the target's.

        Raises:
            ApiError: WRONG_DOWNGRADE_VERSION_FORMAT, CLUSTER_VERSION_UNAVAILABLE,
                INVALID_DOWNGRADE_TARGET_VERSION or DOWNGRADE_IN_PROCESS.
        """
        major, minor = parse_version(asked)
        current = self._cluster_version()
        if (major, minor) != (current[0], current[1] - 1):
            raise errors.INVALID_DOWNGRADE_TARGET_VERSION.fresh()
        if self._replica.status().downgrade_target:
            raise errors.DOWNGRADE_IN_PROCESS.fresh()
        return f"{current[0]}.{current[1]}.0", f"{major}.{minor}.0"

    def _check_cancel(self) -> str:
        major, minor = self._cluster_version()
        if not self._replica.status().downgrade_target:
            raise errors.NO_INFLIGHT_DOWNGRADE.fresh()
        return f"{major}.{minor}.0"

    def _cluster_version(self) -> tuple[int, int]:
        version = self._replica.cluster_version
        if not version:
            raise errors.CLUSTER_VERSION_UNAVAILABLE.fresh()
        return parse_version(version)

    def _done(self, call: Call, version: str, result: ApplyResult | ApiError) -> None:
        if isinstance(result, ApiError):
            call.fail(result)
        else:
            self._reply(call, version)

    def _reply(self, call: Call, version: str) -> None:
        response = rpc_pb2.DowngradeResponse(version=version)
        call.reply(self._replica.header() + response.SerializeToString())


def _check_action(action: int) -> None:
    """Refuse numbers that no version knows; etcd answers them with UNKNOWN."""
    if action not in _Request.DowngradeAction.values():
        text = (
            f"revstore: unknown downgrade action {action}; "
            "use VALIDATE (0), ENABLE (1) or CANCEL (2)"
        )
        raise ApiError(errors.Code.INVALID_ARGUMENT, text)

"""/health and /version, answered by the services of the table as etcd answers them."""

from __future__ import annotations

from functools import partial

from revstore.api import errors
from revstore.api.inprocess import DirectCall, invoke
from revstore.errors import ApiError
from revstore.interfaces.transport import ServiceTable
from revstore.proto import rpc_pb2
from revstore.version import ETCD_API_VERSION
from revstore_grpc.http import TEXT, HttpCall, HttpRoutes

RANGE = "/etcdserverpb.KV/Range"
ALARM = "/etcdserverpb.Maintenance/Alarm"

_HARMLESS = (errors.USER_EMPTY, errors.PERMISSION_DENIED)
"""Answers of a healthy member that wants to know who asks."""


def add_routes(routes: HttpRoutes, table: ServiceTable) -> None:
    """Answer both paths from a table. Raises: nothing."""
    routes.register("/health", partial(_health, table))
    routes.register("/version", _version)


def _version(call: HttpCall) -> None:
    major, minor, _ = ETCD_API_VERSION.split(".")
    if _is_get(call):
        found = {"etcdserver": ETCD_API_VERSION, "etcdcluster": f"{major}.{minor}.0"}
        call.json(200, found)


def _health(table: ServiceTable, call: HttpCall) -> None:
    if not _is_get(call):
        return
    if RANGE not in table:
        _tell(call, "")
        return
    serializable = call.query.get("serializable", [""])[0] == "true"
    request = rpc_pb2.RangeRequest(
        key=b"health", keys_only=True, limit=1, serializable=serializable
    )

    def on_range(done: DirectCall) -> None:
        error = done.outcome
        if isinstance(error, ApiError) and error not in _HARMLESS:
            no_leader = error == errors.NO_LEADER
            _tell(call, "RAFT NO LEADER" if no_leader else f"RANGE ERROR:{error}")
            return
        _alarms(table, call)

    invoke(table, RANGE, request.SerializeToString(), on_done=on_range)


def _alarms(table: ServiceTable, call: HttpCall) -> None:
    excluded = call.query.get("exclude", [])

    def on_alarms(done: DirectCall) -> None:
        reason = ""
        if isinstance(done.outcome, bytes):
            found = rpc_pb2.AlarmResponse.FromString(done.outcome)
            for member in found.alarms:
                name = rpc_pb2.AlarmType.Name(member.alarm)
                if name not in excluded:
                    reason = f"ALARM {name}"
        _tell(call, reason)

    request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
    invoke(table, ALARM, request.SerializeToString(), on_done=on_alarms)


def _tell(call: HttpCall, reason: str) -> None:
    healthy = "false" if reason else "true"
    call.json(503 if reason else 200, {"health": healthy, "reason": reason})


def _is_get(call: HttpCall) -> bool:
    if call.method in ("GET", "HEAD"):
        return True
    call.answer(405, {**TEXT, "allow": "GET"}, b"Method Not Allowed\n")
    return False

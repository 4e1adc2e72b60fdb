"""etcdserverpb.KV: Range, Put, DeleteRange, Txn, Compact; RangeStream is next door.

The way of a call: parse, validate, check permissions, then either read behind a
barrier or propose. The payload of a proposal is the client's own bytes.

Rules of this file:

1. Validation comes before permissions and both before anything that waits, so that a
   bad request costs nothing.
2. A read checks permissions after its barrier, with the identity from before it: if
   users or roles changed meanwhile, the check answers AUTH_OLD_REVISION.
3. An unbounded range is read in chunks with turns of the loop between; see range.py.
"""

from __future__ import annotations

from functools import partial

from google.protobuf.message import DecodeError

from revstore.api import errors
from revstore.api.messages import answer_to, identify, identify_admin, parse, reply_with
from revstore.api.quota import PUT_COST, txn_cost
from revstore.api.range import RangeJob, RangeStreamer, wants_chunks
from revstore.api.replica import AuthInfo, Replica, Tag
from revstore.apply.kv import apply_range
from revstore.apply.txn import is_read_only, is_serializable, read_txn
from revstore.apply.validate import (
    check_delete_request,
    check_put_request,
    check_range_request,
    check_txn_request,
)
from revstore.errors import ApiError, StorageError
from revstore.interfaces.transport import Call, Method, MethodKind
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

_parse_range = rpc_pb2.RangeRequest.FromString
_parse_put = rpc_pb2.PutRequest.FromString
_parse_delete = rpc_pb2.DeleteRangeRequest.FromString
_parse_txn = rpc_pb2.TxnRequest.FromString
_parse_compact = rpc_pb2.CompactionRequest.FromString

PUT, DELETE_RANGE, TXN, COMPACTION = (
    int(Tag.PUT),
    int(Tag.DELETE_RANGE),
    int(Tag.TXN),
    int(Tag.COMPACTION),
)

PHYSICAL_POLL_S = 0.02
"""How often a physical compaction looks whether what it waits for has happened."""


def methods(replica: Replica) -> list[Method]:
    """The methods of the service."""
    service = KvService(replica)
    unary = {
        "Range": service.range,
        "Put": service.put,
        "DeleteRange": service.delete_range,
        "Txn": service.txn,
        "Compact": service.compact,
    }
    found = [
        Method(path=f"/etcdserverpb.KV/{name}", kind=MethodKind.UNARY, unary=function)
        for name, function in unary.items()
    ]
    found.append(
        Method(
            path="/etcdserverpb.KV/RangeStream",
            kind=MethodKind.SERVER_STREAM,
            stream=partial(RangeStreamer, replica),
        )
    )
    return found


class KvService:
    """The unary methods; the arguments of each are those of a ``UnaryFunction``."""

    __slots__ = ("_replica",)

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def put(self, call: Call, message: bytes) -> None:
        """Put."""
        replica = self._replica
        try:
            request = _parse_put(message)
            if not replica.has_space(PUT_COST + len(message)):
                call.fail(errors.NO_SPACE)
                return
            check_put_request(request)
            info = None
            if replica.auth.enabled:
                info = replica.authenticate(call.metadata())
                replica.auth.check_put(info, request)
        except ApiError as error:
            call.fail(error)
        except DecodeError as error:
            call.fail(errors.bad_request(str(error)))
        else:
            done = partial(self._answer, call)
            replica.propose(PUT, message, request, done, info)

    def _answer(self, call: Call, result: ApplyResult | ApiError) -> None:
        if isinstance(result, ApiError):
            call.fail(result)
        else:
            call.reply(self._replica.header(result.revision) + result.body)

    def delete_range(self, call: Call, message: bytes) -> None:
        """DeleteRange."""
        replica = self._replica
        try:
            request = parse(_parse_delete, message)
            check_delete_request(request)
            info = identify(replica, call)
            if info is not None or replica.auth.enabled:
                replica.auth.check_delete(info, request)
        except ApiError as error:
            call.fail(error)
        else:
            done = partial(self._answer, call)
            replica.propose(DELETE_RANGE, message, request, done, info)

    def range(self, call: Call, message: bytes) -> None:
        """Range."""
        replica = self._replica
        try:
            request = _parse_range(message)
            check_range_request(request)
            info = None
            if replica.auth.enabled:
                info = replica.authenticate(call.metadata())
        except ApiError as error:
            call.fail(error)
        except DecodeError as error:
            call.fail(errors.bad_request(str(error)))
        else:
            if request.serializable:
                self._read_range(call, request, info, None)
            else:
                replica.read(partial(self._read_range, call, request, info))

    def _read_range(
        self,
        call: Call,
        request: rpc_pb2.RangeRequest,
        info: AuthInfo | None,
        error: ApiError | None,
    ) -> None:
        """Answer from the local store, after the barrier."""
        if error is not None:
            call.fail(error)
            return
        replica = self._replica
        try:
            auth = replica.auth
            if auth.enabled:
                auth.check_range(info, request.key, request.range_end)
            if request.range_end and wants_chunks(request):
                RangeJob(replica, call, request).step()
                return
            result = apply_range(replica.store, request)
        except ApiError as refused:
            call.fail(refused)
        else:
            reply_with(replica, call, result)

    def txn(self, call: Call, message: bytes) -> None:
        """Txn."""
        replica = self._replica
        try:
            request = parse(_parse_txn, message)
            cost = txn_cost(request)
            if cost and not replica.has_space(cost):
                call.fail(errors.NO_SPACE)
                return
            check_txn_request(request, replica.max_txn_ops)
            info = None
            if replica.auth.enabled:
                info = replica.authenticate(call.metadata())
                replica.auth.check_txn(info, request)
        except ApiError as error:
            call.fail(error)
            return
        if not is_read_only(request):
            done = partial(self._answer, call)
            replica.propose(TXN, message, request, done, info)
        elif is_serializable(request):
            self._read_txn(call, request, info, None)
        else:
            replica.read(partial(self._read_txn, call, request, info))

    def _read_txn(
        self,
        call: Call,
        request: rpc_pb2.TxnRequest,
        info: AuthInfo | None,
        error: ApiError | None,
    ) -> None:
        if error is not None:
            call.fail(error)
            return
        replica = self._replica
        try:
            if replica.auth.enabled:
                replica.auth.check_txn(info, request)
            result = read_txn(replica.store, request)
        except ApiError as refused:
            call.fail(refused)
        else:
            reply_with(replica, call, result)

    def compact(self, call: Call, message: bytes) -> None:
        """Compact; ``physical`` waits until the space is really free to reuse."""
        replica = self._replica
        try:
            request = parse(_parse_compact, message)
            info = identify_admin(replica, call)
        except ApiError as error:
            call.fail(error)
            return
        done = answer_to(replica, call)
        if request.physical:
            done = partial(self._compacted, call)
        replica.propose(COMPACTION, message, request, done, info)

    def _compacted(self, call: Call, result: ApplyResult | ApiError) -> None:
        if isinstance(result, ApiError):
            call.fail(result)
        else:
            self._compact_step(call, result)

    def _compact_step(self, call: Call, result: ApplyResult) -> None:
        """One bounded step, then a turn of the loop, until nothing is pending."""
        replica = self._replica
        if replica.stopped:
            call.fail(errors.STOPPED)
            return
        try:
            more = replica.store.compaction_step()
        except StorageError as error:
            text = f"revstore: compaction failed, restart the member: {error}"
            call.fail(ApiError(errors.Code.UNAVAILABLE, text))
            return
        if not replica.store.compaction_pending():
            reply_with(replica, call, result)
        elif not call.cancelled():
            # Without ``more`` it waits for a flush or for a reader of an old revision.
            delay = 0.0 if more else PHYSICAL_POLL_S
            replica.schedule(partial(self._compact_step, call, result), delay)

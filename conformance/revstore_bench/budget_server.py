"""``revstore serve`` with a meter in it: the process that ``budget`` loads.

``python -m revstore_bench.budget_server coarse|fine FLAGS...``

Rules of this file:

1. It is the very server, with its event loop, its collector and its threads; a few of
   its functions are timed, and it has one method more, which tells the times.
2. ``coarse`` times what the loop calls, by the thread's processor time. There are few
   such calls for many requests, so this disturbs nothing.
3. ``fine`` times each stage of each request by the clock. That disturbs, so only the
   shares of the stages are taken from it.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from revstore.api import kv
from revstore.api import service as api_service
from revstore.api.gate import guard
from revstore.cli.main import main as revstore
from revstore.interfaces.transport import Call, Method, MethodKind
from revstore.node import server as node_server
from revstore.node.aio import AsyncNode
from revstore.node.headers import Headers
from revstore.node.proposals import Proposals
from revstore.node.replica import Replica
from revstore_bench.meter import Meter
from revstore_grpc.link import Link
from revstore_grpc.server import ServerLink
from revstore_http2.server import ServerConnection

PATH = "/revstore.bench.Budget/Take"
HANDLERS = "handlers"

FRAMES_IN = "frames and headers, in"
CALL = "call objects"
VALIDATE = "validate"
PARSE = "parse"
QUEUE = "queue"
AGREE = "consensus"
LOG = "log: encode and queue"
APPLY = "apply or look up"
ENCODE = "encode the answer"
FRAMES_OUT = "frames, out"
WRITE = "write"
STAGES = (
    *(FRAMES_IN, CALL, PARSE, VALIDATE, QUEUE, AGREE),
    *(LOG, APPLY, ENCODE, FRAMES_OUT, WRITE),
)
"""In the order in which a request comes through them."""


class Taken(msgspec.Struct, frozen=True):
    """What the server tells, since it was asked before."""

    sections_us: dict[str, float]
    loop_us: float
    """Processor time of the loop's thread."""
    loop_system_us: float
    """Of it, time in the system."""
    log_us: float
    """Processor time of the threads of the log."""
    flush_us: float
    """Processor time of the threads that write the backend, and of the engine's."""


class Telling:
    """The method that tells the times."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._before = threads_now()

    def take(self, call: Call, message: bytes) -> None:
        """Answer with ``Taken``."""
        now, before = threads_now(), self._before
        self._before = now
        sections = {k: v / 1000 for k, v in self._meter.take().items()}
        spent = {name: now[name] - before[name] for name in now}
        taken = Taken(
            sections,
            spent["loop"],
            spent["system"],
            spent["log"],
            max(0.0, spent["all"] - spent["loop"] - spent["log"]),
        )
        call.reply(msgspec.json.encode(taken))


def threads_now() -> dict[str, float]:
    """Processor time so far, in microseconds. Called on the loop."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    whole = resource.getrusage(resource.RUSAGE_SELF)
    log = sum(
        thread_us(thread.native_id)
        for thread in threading.enumerate()
        if thread.name.startswith("wal-") and thread.native_id is not None
    )
    return {
        "loop": (usage.ru_utime + usage.ru_stime) * 1e6,
        "system": usage.ru_stime * 1e6,
        "all": (whole.ru_utime + whole.ru_stime) * 1e6,
        "log": log,
    }


def thread_us(native_id: int) -> float:
    """Processor time of one thread of this process, in microseconds."""
    text = Path(f"/proc/self/task/{native_id}/schedstat").read_text()
    return int(text.split()[0]) / 1000


def patch_coarse(meter: Meter) -> None:
    """Time what the loop calls."""
    meter.patch(HANDLERS, ServerLink, "data_received")
    # A write wakes the client, which may take the core: only this clock tells them apart.
    meter.patch(WRITE, Link, "flush")
    meter.patch(HANDLERS, AsyncNode, "_pump", "_awake", "_tick")


def patch_fine(meter: Meter, replica: Replica) -> None:
    """Time every stage."""
    meter.patch(FRAMES_IN, ServerConnection, "receive")
    meter.patch(CALL, ServerLink, "data_received")
    meter.patch(VALIDATE, kv.KvService, "put", "range")
    meter.patch(VALIDATE, kv, "check_put_request", "check_range_request")
    meter.patch(PARSE, kv, "_parse_put", "_parse_range")
    meter.patch(QUEUE, Replica, "propose", "read")
    meter.patch(AGREE, AsyncNode, "_pump", "_awake", "_tick")
    consensus: Any = type(replica.consensus)
    meter.patch(AGREE, consensus, "propose", "ready", "persisted", "read_index_now")
    meter.patch(AGREE, Proposals, "add")
    meter.patch(LOG, type(replica.wal), "append")
    meter.patch(APPLY, Replica, "_apply")
    meter.patch(APPLY, kv.KvService, "_read_range")
    meter.patch(ENCODE, kv.KvService, "_answer")
    meter.patch(ENCODE, kv, "reply_with")
    meter.patch(ENCODE, Headers, "with_revision")
    meter.patch(FRAMES_OUT, ServerConnection, "reply")
    meter.patch(WRITE, Link, "flush")


def main() -> int:
    """See the module."""
    kind, flags = sys.argv[1], sys.argv[2:]
    meter = Meter(time.thread_time_ns if kind == "coarse" else time.perf_counter_ns)

    def build_table(replica: Any) -> api_service.Services:
        if kind == "coarse":
            patch_coarse(meter)
        else:
            patch_fine(meter, replica)
        telling = Telling(meter)
        extra = Method(path=PATH, kind=MethodKind.UNARY, unary=telling.take)
        return api_service.build_table(replica, [extra])

    def guard_timed(method: Method, *rest: Any) -> Method:
        made = guard(method, *rest)
        if kind == "coarse" or made.unary is None or made.path == PATH:
            return made
        unary = meter.timed(VALIDATE, made.unary)
        return Method(path=made.path, kind=made.kind, unary=unary, stream=made.stream)

    # The server finds both by these names.
    vars(node_server)["build_table"] = build_table
    vars(api_service)["guard"] = guard_timed
    sys.argv = ["revstore", "serve", *flags]
    return int(revstore() or 0)


if __name__ == "__main__":
    sys.exit(main())

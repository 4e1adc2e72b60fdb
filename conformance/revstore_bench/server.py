"""The process that ``serving`` measures: a member, its table, and one empty method.

``python -m revstore_bench.server BACKEND DIRECTORY PORT``
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from revstore.api.service import build_table
from revstore.interfaces.transport import Call, Method, MethodKind, ServeOptions
from revstore.node.aio import AsyncNode
from revstore.node.settings import MemberSettings, PluginChoice
from revstore.plugin.manager import PluginManager
from revstore_bench.serving import EMPTY_PATH

REQUEST_BYTES_MAX = 2 << 20
DRAIN_S = 1.0


def answer_nothing(call: Call, message: bytes) -> None:
    """The empty method."""
    call.reply(b"")


async def serve(backend: str, directory: Path, port: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = MemberSettings(data_dir=directory, backend=PluginChoice(backend))
    node = await AsyncNode.open(settings)
    try:
        table = dict(build_table(node.replica))
        table[EMPTY_PATH] = Method(
            path=EMPTY_PATH, kind=MethodKind.UNARY, unary=answer_nothing
        )
        transport = PluginManager().make_transport("grpcio", {})
        url = f"http://127.0.0.1:{port}"
        server = await transport.serve_clients(
            table, ServeOptions(urls=(url,), request_bytes_max=REQUEST_BYTES_MAX)
        )
        await stop.wait()
        await server.drain(DRAIN_S)
    finally:
        await node.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))

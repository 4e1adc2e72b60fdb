"""Opening a client: from endpoints as people write them to a pool that is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random, SystemRandom

from revstore.client.caller import Caller, CallOptions
from revstore.client.pool import OpenChannel, Pool
from revstore.client.store import AsyncClient
from revstore.errors import UsageError
from revstore.interfaces.channel import Channel, ChannelOptions, ChannelTls
from revstore.interfaces.transport import Transport
from revstore.plugin.manager import PluginManager

SCHEMES = {
    "http": "grpc",
    "https": "grpc",
    "unix": "grpc",
    "tcp": "tcp",
    "tcps": "tcp",
}
"""The transport of a scheme, where the caller names none."""

KEEPALIVE_S = 10.0
KEEPALIVE_TIMEOUT_S = 5.0


def parse_endpoints(
    endpoints: str | Sequence[str], *, secure: bool = False
) -> tuple[str, ...]:
    """URLs from a comma separated list or a sequence; HOST:PORT alone is gRPC.

    ``secure`` makes that gRPC with TLS.

    Raises:
        UsageError: there is none, or one is not of a known form.
    """
    texts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    urls = []
    for text in texts:
        url = text.strip().rstrip("/")
        if not url:
            continue
        if "://" not in url:
            url = f"{'https' if secure else 'http'}://{url}"
        scheme, _, rest = url.partition("://")
        host, _, port = rest.rpartition(":")
        if scheme != "unix" and not (host and port.isdecimal()):
            raise UsageError(
                f"endpoint {text!r} is not of the form SCHEME://HOST:PORT, "
                "such as http://127.0.0.1:2379 or tcp://127.0.0.1:2379"
            )
        urls.append(url)
    if not urls:
        raise UsageError("give at least one endpoint, such as http://127.0.0.1:2379")
    return tuple(dict.fromkeys(urls))


def channel_opener(
    plugins: PluginManager, options: ChannelOptions, transport: str | None = None
) -> Callable[[str], Channel]:
    """What opens the channel to a URL, through the transport of its scheme."""
    made: dict[str, Transport] = {}

    def open_channel(url: str) -> Channel:
        name = transport or _transport_for(url.partition("://")[0], plugins)
        if name not in made:
            made[name] = plugins.make_transport(name)
        return made[name].open_channel(url, options)

    return open_channel


def _transport_for(scheme: str, plugins: PluginManager) -> str:
    known = SCHEMES.get(scheme)
    if known is not None:
        return known
    for name in plugins.names("transport"):
        if scheme in plugins.find("transport", name).capabilities.channel_schemes:
            return name
    raise UsageError(
        f"no transport calls {scheme}:// URLs; use one of {', '.join(SCHEMES)}, or "
        "install the plugin that does"
    )


async def connect(
    endpoints: str | Sequence[str],
    *,
    user: str = "",
    password: str = "",
    tls: ChannelTls | None = None,
    transport: str | None = None,
    timeout_s: float | None = 10.0,
    connect_timeout_s: float = 5.0,
    require_leader: bool = False,
    plugins: PluginManager | None = None,
    random: Random | None = None,
    open_channel: OpenChannel | None = None,
    wait: bool = True,
) -> AsyncClient:
    """A client of a cluster, on the running event loop.

    ``endpoints`` are URLs, in a list or separated by commas: ``http://``, ``https://``
    or ``unix://`` for gRPC, ``tcp://`` or ``tcps://`` for the transport "tcp". Returns
    when one of them answers; calls go to all that are healthy. ``timeout_s`` is for
    each call with all its repetitions; None waits for ever. Without ``wait`` the
    client is returned at once: for looking at endpoints that may all be down.

    Raises:
        Unavailable: no endpoint answered within ``connect_timeout_s``; says why.
        ApiError: the user was refused.
        UsageError, ConfigError, PluginError: an argument cannot work.
    """
    if user and not password:
        raise UsageError(f"the user {user!r} needs a password")
    urls = parse_endpoints(endpoints, secure=tls is not None)
    randomness = random or SystemRandom()
    if open_channel is None:
        options = ChannelOptions(
            tls=tls,
            connect_timeout_s=connect_timeout_s,
            keepalive_s=KEEPALIVE_S,
            keepalive_timeout_s=KEEPALIVE_TIMEOUT_S,
        )
        open_channel = channel_opener(plugins or PluginManager(), options, transport)
    pool = Pool(urls, open_channel, randomness)
    try:
        caller = Caller(pool, randomness, user, password)
        if wait:
            clock = asyncio.get_running_loop().time
            await pool.pick((), clock() + connect_timeout_s)
            await caller.first_token(timeout_s)
    except BaseException:
        await pool.close()
        raise
    settings = CallOptions(timeout_s=timeout_s, require_leader=require_leader)
    return AsyncClient.over(caller, settings, randomness)

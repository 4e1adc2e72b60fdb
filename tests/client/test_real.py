"""The client against real servers, over both transports, and as a drop-in for the
embedded store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import revstore
import revstore.aio
import revstore.client
from revstore import Compare, Delete, Get, Put, Txn
from revstore.api import errors
from revstore.client import ChannelTls
from revstore.errors import ApiError, Unavailable
from tests.support.etcd import ETCD, NO_ETCD, start_etcd
from tests.support.server import ServerProcess, start_server
from tests.transports.certificates import Authority

pytestmark = pytest.mark.slow

URLS = "http://127.0.0.1:0,tcp://127.0.0.1:0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A member that serves both transports."""
    folder = tmp_path_factory.mktemp("client")
    with start_server("memory", folder / "data", listen_client_urls=URLS) as found:
        yield found


@pytest.fixture(params=["http", "tcp"])
def url(server: ServerProcess, request: pytest.FixtureRequest) -> str:
    """Its address over one of them."""
    urls: list[str] = server.ready["addresses"]
    return next(one for one in urls if one.startswith(f"{request.param}://"))


@pytest.fixture
def client(url: str) -> Iterator[revstore.client.Client]:
    """A client of an empty store."""
    with revstore.client.connect_sync(url) as found:
        found.delete(prefix=b"")
        yield found


def use(store: Any) -> list[Any]:
    """A session that works on any store; what it saw, without revisions."""
    seen: list[Any] = []
    with store.watch(prefix="a/") as watcher:
        base = store.put("a/1", "one").revision
        store.put_many([("a/2", b"two"), ("b", "b")])
        result = store.txn(
            compare=[Compare.version("a/1", "=", 1)],
            success=[
                Put("a/3", "three"),
                Get(prefix="a/"),
                Txn([Compare.value("b", "=", "x")], [], [Delete(key="b")]),
            ],
        )
        seen += [result.succeeded, result.revision - base, len(result.answers)]
        seen.append([pair.key for pair in result.answers[1].kvs])
        with store.lease(60) as lease:
            store.put("a/4", "four", lease=lease.id)
            seen.append(0 < lease.keep_alive() <= 60)
        gone = store.delete("a/1", prev_kv=True)
        seen += [gone.deleted, gone.prev[0].value]
        for _ in range(6):
            event = watcher.next_event(20.0)
            seen.append((str(event.type), event.key, event.value))
    seen.append([pair.key for pair in store.range(prefix="a/")])
    seen.append([pair.key for pair in store.range(prefix="a/", reverse=True, limit=1)])
    seen += [store.count(prefix="a/"), store.get("a/1"), store.get("a/2").value]
    with pytest.raises(ApiError) as caught:
        store.put("a", "b", lease=12345)
    assert caught.value == errors.LEASE_NOT_FOUND
    store.compact(store.revision)
    with pytest.raises(ApiError) as caught:
        store.get("a/2", revision=base)
    assert caught.value == errors.COMPACTED
    return seen


def test_a_program_moves_from_embedded_to_a_cluster(
    client: revstore.client.Client, tmp_path: Path
) -> None:
    """The same calls see the same values; only the line that opens differs."""
    with revstore.open(tmp_path / "embedded", backend="memory") as store:
        assert use(client) == use(store)


@pytest.mark.etcd
@pytest.mark.parametrize("transport", ["grpc", "grpcio"])
def test_it_is_a_client_of_etcd(tmp_path: Path, transport: str) -> None:
    """The same session on a real etcd sees what an embedded store sees; users, the
    state of the member and its end are those of etcd, too."""
    if ETCD is None:
        pytest.skip(NO_ETCD)
    with (
        start_etcd(tmp_path / "etcd") as etcd,
        revstore.client.connect_sync(etcd.url, transport=transport) as client,
    ):
        with revstore.open(tmp_path / "embedded", backend="memory") as store:
            assert use(client) == use(store)
            client.put("same", "1")
            store.put("same", "1")
        assert client.maintenance.status(etcd.url).version.startswith("3.")
        assert client.maintenance.healthy(etcd.url)
        assert len(client.cluster.members()) == 1
        assert sum(len(piece) for piece in client.maintenance.snapshot()) > 0
        client.auth.add_user("root", "r")
        client.auth.grant_role("root", "root")
        client.auth.enable()
        with pytest.raises(ApiError) as caught:
            client.get("same")
        assert caught.value == errors.USER_EMPTY
        with revstore.client.connect_sync(
            etcd.url, user="root", password="r", transport=transport
        ) as root:
            with root.watch("same") as watcher:
                root.put("same", "2")
                event = watcher.next_event(20.0)
                assert event is not None
                assert event.value == b"2"
            root.auth.disable()


def test_big_ranges_come_in_pages_of_one_revision(
    client: revstore.client.Client,
) -> None:
    """Ten thousand pairs, and a write in the midst that the reader does not see."""
    for first in range(0, 3000, 100):
        client.put_many([(f"p/{n:05}", "v") for n in range(first, first + 100)])
    pairs = client.range(prefix="p/")
    head = [next(pairs).key for _ in range(10)]
    client.delete(prefix="p/02")
    client.put("p/09999", "late")
    rest = [pair.key for pair in pairs]
    assert head + rest == [b"p/%05d" % n for n in range(3000)]
    assert client.count(prefix="p/") == 3001 - 1000


def test_a_compacted_watch_says_where_to_go_on(client: revstore.client.Client) -> None:
    """History that is gone ends the watch with the revision of what is left."""
    client.put("w", "1")
    last = client.put("w", "2").revision
    client.compact(last)
    watcher = client.watch("w", start_revision=last - 1)
    with watcher, pytest.raises(revstore.WatchCanceled) as caught:
        watcher.next_event(20.0)
    assert caught.value.compact_revision == last
    with client.watch("w", start_revision=last) as watcher:
        event = watcher.next_event(20.0)
        assert event is not None
        assert event.revision == last


def test_filters_previous_values_and_progress(client: revstore.client.Client) -> None:
    """A watch without puts sees the deletes alone, with what was deleted."""
    with client.watch("f", puts=False, prev_kv=True) as watcher:
        client.put("f", "1")
        client.delete("f")
        event = watcher.next_event(20.0)
        assert event is not None
        assert (str(event.type), event.prev and event.prev.value) == ("delete", b"1")
        assert watcher.next_event(0.01) is None
        last = client.put("other", "1").revision
        watcher.request_progress()
        batch = watcher.next_batch(20.0)
        assert batch is not None
        assert batch.events == ()
        assert watcher.revision == batch.revision >= last


def test_big_responses_are_split_and_joined(client: revstore.client.Client) -> None:
    """One revision of three megabytes is handed out whole."""
    value = b"x" * 30_000
    with client.watch(prefix="big/") as watcher:
        for number in range(0, 100, 20):
            client.put_many([(f"big/{n}", value) for n in range(number, number + 20)])
        start = client.revision - 4
        with client.watch(prefix="big/", start_revision=start) as history:
            events = [history.next_event(20.0) for _ in range(100)]
        live = [watcher.next_event(20.0) for _ in range(100)]
    assert events == live
    assert len({event.key for event in events if event}) == 100


def test_members_and_their_state(client: revstore.client.Client, url: str) -> None:
    """Status, health, members, alarms, checksum and snapshot of a member."""
    client.put("s", "1")
    status = client.maintenance.status(url)
    assert status.is_leader
    assert status.revision == client.revision
    assert client.maintenance.healthy(url)
    members = client.cluster.members()
    assert [member.id for member in members] == [status.member_id]
    assert client.maintenance.alarms() == ()
    first, second = client.hash_kv(), client.maintenance.hash_kv(0, url)
    assert first == second
    assert sum(len(piece) for piece in client.maintenance.snapshot()) > 0
    client.maintenance.defragment(url)


def test_sockets_and_ipv6(tmp_path: Path) -> None:
    """A path of this machine, and an address of version 6."""
    path = tmp_path / "s"
    urls = f"unix://{path},http://[::1]:0,tcp://[::1]:0"
    with start_server("memory", tmp_path / "data", listen_client_urls=urls) as server:
        for number, url in enumerate(server.ready["addresses"]):
            with revstore.client.connect_sync(url) as client:
                client.put("k", str(number))
                assert client.count() == 1


def test_methods_are_for_all_threads(client: revstore.client.Client) -> None:
    """Eight threads with one client do all their puts."""

    def work(number: int) -> None:
        for count in range(20):
            client.put(f"t/{number}/{count}", "v")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.count(prefix="t/") == 160


def test_closing_ends_those_that_wait(url: str) -> None:
    """A reader in another thread hears that the watch ended; later calls are refused."""
    client = revstore.client.connect_sync(url)
    watcher = client.watch("never")
    heard: list[object] = []
    reader = threading.Thread(target=lambda: heard.append(watcher.next_event(60.0)))
    reader.start()
    client.close()
    reader.join(30.0)
    assert heard == [None]
    client.close()
    watcher.close()
    with pytest.raises(Unavailable):
        client.get("k")


def test_users_and_permissions(tmp_path: Path) -> None:
    """Authentication is switched on under a client's feet, and a user has what it was
    granted and no more."""
    with start_server("memory", tmp_path / "data", listen_client_urls=URLS) as server:
        url = server.ready["addresses"][0]
        with revstore.client.connect_sync(url, user="root", password="r") as root:
            root.auth.add_user("root", "r")
            root.auth.add_role("root")
            root.auth.grant_role("root", "root")
            root.auth.add_user("reader", "x")
            root.auth.add_role("readers")
            root.auth.grant_permission("readers", "read", prefix="pub/")
            root.auth.grant_role("reader", "readers")
            root.put("pub/1", "1")
            root.auth.enable()
            assert root.auth.status().enabled
            assert root.auth.users() == ("reader", "root")
            granted = root.auth.role_permissions("readers")
            assert [(one.kind, one.key, one.end) for one in granted] == [
                ("READ", b"pub/", b"pub0")
            ]
            with revstore.client.connect_sync(
                server.ready["addresses"][1], user="reader", password="x"
            ) as reader:
                pair = reader.get("pub/1")
                assert pair is not None
                assert pair.value == b"1"
                with pytest.raises(ApiError) as caught:
                    reader.put("pub/1", "2")
                assert caught.value == errors.PERMISSION_DENIED
                with pytest.raises(revstore.WatchCanceled, match="permission denied"):
                    reader.watch("secret")
                with reader.watch(prefix="pub/") as watcher:
                    root.put("pub/2", "2")
                    event = watcher.next_event(20.0)
                    assert event is not None
                    assert event.key == b"pub/2"
            with pytest.raises(ApiError) as caught:
                revstore.client.connect_sync(url, user="reader", password="y")
            assert caught.value == errors.AUTH_FAILED
            root.auth.disable()


@pytest.mark.parametrize("scheme", ["https", "tcps"])
def test_certificates(tmp_path: Path, scheme: str) -> None:
    """Both sides prove themselves; without the client's certificate nothing is sent."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority = Authority(folder)
    authority.sign("server", "server", "IP:127.0.0.1")
    authority.sign("client", "someone")
    with start_server(
        "memory",
        tmp_path / "data",
        listen_client_urls=f"{scheme}://127.0.0.1:0",
        advertise_client_urls=f"{scheme}://127.0.0.1:0",
        cert_file=authority.path("server.crt"),
        key_file=authority.path("server.key"),
        trusted_ca_file=authority.path("ca.crt"),
        client_cert_auth=True,
    ) as server:
        tls = ChannelTls(
            authority.path("ca.crt"),
            authority.path("client.crt"),
            authority.path("client.key"),
        )
        with revstore.client.connect_sync(server.url, tls=tls) as client:
            client.put("k", "v")
            pair = client.get("k")
            assert pair is not None
            assert pair.value == b"v"
        for trust in ChannelTls(), msgspec.structs.replace(tls, server_name="other"):
            with pytest.raises(Unavailable, match=r"certificate|verify|no endpoint"):
                revstore.client.connect_sync(
                    server.url, tls=trust, connect_timeout_s=1.0
                )
        careless = msgspec.structs.replace(
            tls, trusted_ca_file="", insecure_skip_verify=True
        )
        with revstore.client.connect_sync(server.url, tls=careless) as client:
            assert client.count() == 1
        stranger = ChannelTls(authority.path("ca.crt"))
        with pytest.raises(Unavailable, match="no endpoint"):
            revstore.client.connect_sync(
                server.url, tls=stranger, connect_timeout_s=1.0
            )

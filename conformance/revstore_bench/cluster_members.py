"""The processes of clusters that are measured: revstore's, and etcd's beside them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from revstore.proto import rpc_pb2
from revstore_bench import host
from revstore_bench.load import LoadError
from revstore_bench.serving import Target, free_port

STATUS_PATH = "/etcdserverpb.Maintenance/Status"
MEMBERS = 3
ELECTION_MS = 1000
START_S = 60.0


class MemberTarget(Target):
    """A member, which can be killed and started again."""

    def __init__(self, arguments: list[str], ports: tuple[int, int], log: Path) -> None:
        self.arguments = arguments
        self.tcp_port = ports[1]
        super().__init__(arguments, ports[0], log, wait=False)

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait()

    def again(self) -> MemberTarget:
        """The same member, started again."""
        return MemberTarget(self.arguments, (self.port, self.tcp_port), self.log)


class ThreeMembers:
    """Members of one cluster, revstore's or etcd's."""

    def __init__(
        self,
        commands: Sequence[list[str]],
        ports: Sequence[tuple[int, int]],
        place: Path,
    ) -> None:
        self.members = [
            MemberTarget(command, pair, place / f"{number}.log")
            for number, (command, pair) in enumerate(zip(commands, ports, strict=True))
        ]
        for member in self.members:
            member.await_up()
        self.leader()

    def leader(self) -> MemberTarget:
        """Who leads and serves, once one does. Raises: TimeoutError."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for member in self.members:
                status = status_of(member)
                if status is not None and status.leader == status.header.member_id:
                    return member
            time.sleep(0.05)
        raise TimeoutError("no member leads")

    def follower_of(self, leader: MemberTarget) -> MemberTarget:
        """A member that does not lead."""
        return next(member for member in self.members if member is not leader)

    def cpu_seconds(self) -> float:
        """Of all members together."""
        return sum(host.cpu_seconds_of(member.pid) for member in self.members)

    def stop(self) -> None:
        """End all."""
        for member in self.members:
            member.stop()


def status_of(member: Target) -> rpc_pb2.StatusResponse | None:
    """What a member says of itself, None if it does not answer."""
    client = OneCall(member.port)
    try:
        return rpc_pb2.StatusResponse.FromString(client.call(STATUS_PATH, b""))
    except LoadError:
        return None
    finally:
        client.close()


class OneCall:
    """Single gRPC calls that end in time, also while nobody listens."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def call(self, path: str, message: bytes, timeout_s: float = 1.0) -> bytes:
        """The answer. Raises: LoadError."""
        try:
            method: Callable[..., bytes] = self._channel.unary_unary(path)
            return method(message, timeout=timeout_s)
        except grpc.RpcError as error:
            raise LoadError(str(error)) from error

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


def start_revstore(
    place: Path, backends: Sequence[str], flags: Sequence[str]
) -> ThreeMembers:
    """Three members as an operator starts them."""
    place.mkdir(parents=True)
    ports = [(free_port(), free_port()) for _ in backends]
    peers = [f"http://127.0.0.1:{free_port()}" for _ in backends]
    cluster = ",".join(f"m{number}={url}" for number, url in enumerate(peers))
    commands = []
    for number, backend in enumerate(backends):
        client, tcp = ports[number]
        commands.append(
            [
                *(str(Path(sys.executable).with_name("revstore")), "serve"),
                *(f"--name=m{number}", f"--data-dir={place / str(number)}"),
                f"--backend={backend}",
                f"--listen-client-urls=http://127.0.0.1:{client},tcp://127.0.0.1:{tcp}",
                f"--listen-peer-urls={peers[number]}",
                f"--initial-advertise-peer-urls={peers[number]}",
                f"--initial-cluster={cluster}",
                f"--election-timeout={ELECTION_MS}",
                "--quota-backend-bytes=-1",
                *flags,
            ]
        )
    return ThreeMembers(commands, ports, place)


def start_etcd(place: Path) -> ThreeMembers:
    """Three members of etcd with their defaults."""
    place.mkdir(parents=True)
    ports = [(free_port(), 0) for _ in range(MEMBERS)]
    peers = [f"http://127.0.0.1:{free_port()}" for _ in range(MEMBERS)]
    cluster = ",".join(f"m{number}={url}" for number, url in enumerate(peers))
    commands = []
    for number in range(MEMBERS):
        client = f"http://127.0.0.1:{ports[number][0]}"
        commands.append(
            [
                *("etcd", f"--name=m{number}", f"--data-dir={place / str(number)}"),
                *(
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                ),
                f"--listen-peer-urls={peers[number]}",
                f"--initial-advertise-peer-urls={peers[number]}",
                f"--initial-cluster={cluster}",
            ]
        )
    return ThreeMembers(commands, ports, place)

"""A real etcd of one member as a real process."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from tests.support.process import READY_S, LoggingProcess

ETCD = shutil.which("etcd")
NO_ETCD = "no etcd on this machine (Debian: apt-get install etcd-server)"
READY = "serving client traffic "


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class EtcdProcess(LoggingProcess):
    """One etcd; see ``start_etcd``."""

    url: str = ""

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.partition("://")[2]

    def start(self, timeout_s: float = READY_S) -> None:
        """Start and wait until clients are served. Raises: as ``wait_for_log``."""
        self.spawn()
        self.wait_for_log(lambda text: True if READY in text else None, timeout_s)

    def restart(self, *, kill: bool = False) -> None:
        """End (SIGTERM, or SIGKILL) and start again at the same address."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()


def start_etcd(data_dir: Path, **flags: object) -> EtcdProcess:
    """An etcd on free ports of 127.0.0.1; use it with ``with``.

    Raises:
        RuntimeError: it ended instead of serving.
        TimeoutError: it did not serve in time.
    """
    assert ETCD is not None, NO_ETCD
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    given: dict[str, object] = {
        "data_dir": data_dir,
        "name": "m",
        "listen_client_urls": client,
        "advertise_client_urls": client,
        "listen_peer_urls": peer,
        "initial_advertise_peer_urls": peer,
        "initial_cluster": f"m={peer}",
        "logger": "zap",
        **flags,
    }
    command = [ETCD]
    command += [f"--{name.replace('_', '-')}={v}" for name, v in given.items()]
    etcd = EtcdProcess(command, data_dir.with_name(f"{data_dir.name}.log"), None)
    etcd.url = client
    try:
        etcd.start()
    except BaseException:
        etcd.kill()
        raise
    return etcd

"""A network of its own for each member, so that links can be cut and made lossy.

Every member lives in a Linux network namespace behind one bridge; clients are on the
bridge itself and are cut off with a member only by ``cut_off``. Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Self

NO_NAMESPACES = "network namespaces need root, Linux and iproute2"


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=30)


def namespaces_work() -> bool:
    """Whether this process may make network namespaces and bridges."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"rvt{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "del", name)
        _run("ip", "link", "add", name, "type", "bridge")
        _run("ip", "link", "del", name)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


class Network:
    """The bridge and the namespaces; a context manager that removes them."""

    def __init__(self, number: int = 0) -> None:
        process = os.getpid()
        self._name = f"rv{process}{chr(97 + number)}"
        self._net = f"10.{64 + (process >> 8) % 128}.{process & 0xFF}"
        self._count = number * 20
        self._hosts: list[str] = []

    def __enter__(self) -> Self:
        _run("ip", "link", "add", self._name, "type", "bridge")
        _run(
            "ip",
            "addr",
            "add",
            f"{self._net}.{self._count + 200}/24",
            "dev",
            self._name,
        )
        _run("ip", "link", "set", self._name, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            _run("ip", "netns", "del", self.namespace(host))
        _run("ip", "link", "del", self._name)

    def host(self) -> str:
        """A new namespace with an address; returns the address."""
        self._count += 1
        host = f"{self._net}.{self._count}"
        namespace, cable = self.namespace(host), self._cable(host)
        _run("ip", "netns", "add", namespace)
        _run(
            *("ip", "link", "add", cable, "type", "veth"),
            *("peer", "name", "eth0", "netns", namespace),
        )
        _run("ip", "link", "set", cable, "master", self._name, "up")
        inside = ("ip", "-n", namespace)
        _run(*inside, "addr", "add", f"{host}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "link", "set", "lo", "up")
        self._hosts.append(host)
        return host

    def namespace(self, host: str) -> str:
        """The name of an address's namespace."""
        return f"{self._name}-{host.rpartition('.')[2]}"

    def _cable(self, host: str) -> str:
        return f"{self._name}x{host.rpartition('.')[2]}"

    def prefix(self, host: str) -> tuple[str, ...]:
        """What a command begins with to run there."""
        return ("ip", "netns", "exec", self.namespace(host))

    def block(self, source: str, target: str) -> None:
        """Lose what ``source`` sends to ``target``; the other way goes on."""
        inside = ("ip", "-n", self.namespace(source))
        _run(*inside, "route", "add", "blackhole", f"{target}/32")

    def unblock(self, source: str, target: str) -> None:
        """End what ``block`` began."""
        inside = ("ip", "-n", self.namespace(source))
        _run(*inside, "route", "del", "blackhole", f"{target}/32")

    def carry(self, host: str, carried: bool) -> None:
        """Lose all that goes to and from a host, or carry it again.

        The cable stays plugged in: nobody is told, packets are only lost.
        """
        state = "3" if carried else "0"
        _run("bridge", "link", "set", "dev", self._cable(host), "state", state)

"""``revstore version``."""

from __future__ import annotations

import platform

import click

from revstore.cli import output
from revstore.version import ETCD_API_VERSION, revstore_version


def version_lines() -> list[str]:
    """What ``version`` prints; the second line is the one that etcd prints."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine()
    )
    return [
        f"revstore Version: {revstore_version()}",
        f"etcd Version: {ETCD_API_VERSION}",
        f"Python Version: {platform.python_version()}",
        f"OS/Arch: {platform.system().lower()}/{machine}",
    ]


@click.command(help="Print the versions: revstore's own and the etcd API's.")
def version() -> None:
    """Print the versions."""
    output.line("\n".join(version_lines()))

"""The npm client etcd3 in a folder of its own, and its scripted session."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from tests.clients.environments import SESSION_S, install, made_once

NODE, NPM = shutil.which("node"), shutil.which("npm")
NO_NODE = "needs node and npm (Debian packages nodejs and npm)"
HERE = Path(__file__).resolve().parent / "npm"
PACKAGE = "package.json"


def modules(cache: Path) -> Path:
    """The folder with the client and what it needs; made once, then found in ``cache``.

    Raises:
        NotInstalledError: it cannot be installed, mostly for want of a network.
    """
    assert NPM is not None, NO_NODE
    wanted = (HERE / PACKAGE).read_bytes()
    folder = cache / f"npm-{hashlib.sha256(wanted).hexdigest()[:12]}"
    # No package of these needs its install script.
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
    npm = [NPM, "install", *quiet, "--loglevel=error", "--fetch-retries=1"]

    def make() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(HERE / PACKAGE, folder)
        install(npm, folder)

    made_once(folder, make)
    return folder / "node_modules"


def run_session(address: str, packages: Path) -> dict[str, Any]:
    """What the session found at a server, fact by fact. Raises: AssertionError."""
    assert NODE is not None, NO_NODE
    done = subprocess.run(
        [NODE, str(HERE / "etcd3_session.js"), address],
        env={**os.environ, "NODE_PATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=SESSION_S,
        check=False,
    )
    assert done.returncode == 0, f"npm etcd3 at {address}:\n{done.stderr[-6000:]}"
    found: dict[str, Any] = msgspec.json.decode(done.stdout.splitlines()[-1])
    return found

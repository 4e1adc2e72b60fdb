"""The npm client etcd3 in a folder of its own, and its scripted session."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

NODE, NPM = shutil.which("node"), shutil.which("npm")
NO_NODE = "needs node and npm (Debian packages nodejs and npm)"
HERE = Path(__file__).resolve().parent / "npm"
PACKAGE = "package.json"
INSTALL_S = 240.0
SESSION_S = 120.0


class NoPackageError(Exception):
    """npm could not install the client; the message has its words."""


def modules(cache: Path) -> Path:
    """The folder with the client and what it needs; made once, then found in ``cache``.

    Raises:
        NoPackageError: it cannot be installed, mostly for want of a network.
    """
    assert NPM is not None, NO_NODE
    wanted = (HERE / PACKAGE).read_bytes()
    folder = cache / f"npm-{hashlib.sha256(wanted).hexdigest()[:12]}"
    with folder.with_suffix(".lock").open("w") as lock:
        # The workers of one run, and runs at the same time, make it only once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            shutil.copy(HERE / PACKAGE, folder)
            _install(NPM, folder)
            (folder / "ready").touch()
    return folder / "node_modules"


def _install(npm: str, folder: Path) -> None:
    # No package of these needs its install script.
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
    try:
        done = subprocess.run(
            [npm, "install", *quiet, "--loglevel=error", "--fetch-retries=1"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise NoPackageError(f"npm took too long: {exc}") from exc
    if done.returncode != 0:
        raise NoPackageError(f"npm: {done.stderr[-800:]}")


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

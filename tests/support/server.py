"""``revstore serve`` as a real process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.process import READY_S, LoggingProcess

READY = "ready to serve client requests"
ANY_PORT = "http://127.0.0.1:0"
SEGMENT_BYTES = 4 * 1024**2


class ServerProcess(LoggingProcess):
    """A member of one behind its own port; see ``start_server``."""

    url: str = ""
    """Where the current run listens, like ``http://127.0.0.1:45678``."""
    ready: Mapping[str, Any] = {}
    """The fields of the current run's line "ready to serve client requests"."""

    @property
    def address(self) -> str:
        """Host and port of the current run."""
        return self.url.partition("://")[2]

    def start(self, timeout_s: float = READY_S) -> None:
        """Start and wait until clients are served. Raises: as ``wait_for_log``."""
        self.spawn()
        self.ready = self.wait_for_log(ready_line, timeout_s)
        self.url = str(self.ready["addresses"][0])

    def restart(self, *, kill: bool = False) -> None:
        """End (SIGTERM, or SIGKILL) and start again; the port may be another.

        Raises:
            AssertionError: the end by SIGTERM was not clean.
        """
        status = self.kill() if kill else self.stop()
        assert kill or status == 0, self.run_log_text[-4000:]
        self.start()


def ready_line(text: str) -> Mapping[str, Any] | None:
    """The fields of the line that says that clients are served, None before it."""
    complete = text.rpartition("\n")[0].splitlines()
    for line in complete:
        if READY in line:
            fields: dict[str, Any] = json.loads(line)
            return fields
    return None


def start_server(
    backend: str,
    data_dir: Path,
    *,
    settings: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    log_path: Path | None = None,
    **flags: object,
) -> ServerProcess:
    """A served member on any free port of 127.0.0.1; use it with ``with``.

    ``flags`` are those of ``revstore serve`` with ``_`` for ``-``; ``settings`` are
    values of ``--set``; ``env`` comes on top of this process's environment.

    Raises:
        RuntimeError: the server ended instead of serving.
        TimeoutError: it did not serve in time.
    """
    given: dict[str, object] = {
        "data_dir": data_dir,
        "backend": backend,
        "listen_client_urls": ANY_PORT,
        "advertise_client_urls": ANY_PORT,
        "listen_peer_urls": ANY_PORT,
        **flags,
    }
    command = [str(Path(sys.executable).with_name("revstore")), "serve"]
    command += [f"--{name.replace('_', '-')}={_text(v)}" for name, v in given.items()]
    if "wal" not in given:
        command.append(f"--set=segment.segment_bytes={SEGMENT_BYTES}")
    command += [f"--set={setting}" for setting in settings]
    log = log_path or data_dir.with_name(f"{data_dir.name}.log")
    server = ServerProcess(command, log, None if env is None else {**os.environ, **env})
    try:
        server.start()
    except BaseException:
        server.kill()
        raise
    return server


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

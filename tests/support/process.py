"""A child process that writes a log, and waiting for what it says there."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

READY_S = 60.0
STOP_S = 30.0
POLL_S = 0.005

Found = TypeVar("Found")


def wait_for(
    condition: Callable[[], Found | None], what: str, timeout_s: float = READY_S
) -> Found:
    """The first true answer of ``condition``.

    Raises:
        TimeoutError: there was none in time.
    """
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        pause.wait(POLL_S)


class LoggingProcess:
    """One run after the other of a command, all writing to one log file.

    A context manager: the process is killed at the end if it still runs.
    """

    def __init__(
        self, command: Sequence[str], log_path: Path, env: Mapping[str, str] | None
    ) -> None:
        self.command = list(command)
        self.log_path = log_path
        self._env = None if env is None else dict(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._run_begins = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def spawn(self) -> None:
        """Start the command; its log goes behind that of the runs before."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._run_begins = log.tell()
            self._process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self._env
            )

    @property
    def pid(self) -> int:
        """The process id of the current or last run."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status of the last run; None while it goes on."""
        return None if self._process is None else self._process.poll()

    @property
    def log_text(self) -> str:
        """What all runs logged."""
        return self.log_path.read_text(errors="replace")

    @property
    def run_log_text(self) -> str:
        """What the current or last run logged."""
        with self.log_path.open("rb") as log:
            log.seek(self._run_begins)
            return log.read().decode(errors="replace")

    def wait_for_log(
        self, find: Callable[[str], Found | None], timeout_s: float = READY_S
    ) -> Found:
        """What ``find`` makes of the run's log, once it finds something.

        Raises:
            RuntimeError: the process ended first.
            TimeoutError: it said nothing of the kind in time.
        """

        def look() -> Found | None:
            ended = self.returncode is not None
            found = find(self.run_log_text)
            if found is None and ended:
                raise RuntimeError(
                    f"{self.command[:2]} ended with status {self.returncode}:\n"
                    f"{self.run_log_text[-4000:]}"
                )
            return found

        try:
            return wait_for(look, f"{self.command[:2]} ready", timeout_s)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}:\n{self.run_log_text[-4000:]}") from exc

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and the exit status. Raises: TimeoutExpired if it does not end."""
        return self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> int:
        """SIGKILL, and the exit status; nothing if no run goes on."""
        return self._end(signal.SIGKILL, STOP_S)

    def _end(self, number: signal.Signals, timeout_s: float) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(timeout_s)

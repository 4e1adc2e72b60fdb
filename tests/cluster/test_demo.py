"""``revstore demo`` as a stranger runs it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from revstore.cli.main import main
from tests.support.cluster import free_host
from tests.support.process import LoggingProcess, wait_for

REVSTORE = str(Path(sys.executable).with_name("revstore"))


def processes_below(place: Path) -> list[str]:
    """Command lines of running processes that name a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"--data-dir={place}/" in text:
            found.append(text)
    return found


@pytest.mark.slow
def test_demo_shows_a_leader_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    """Three members on three backends, a leader, and no process left afterwards."""
    place = tmp_path / "data"
    command = [
        *(REVSTORE, "demo", f"--host={free_host()}", f"--data-dir={place}"),
        "--backends=lmdb,rocksdb,memory",
    ]
    with LoggingProcess(command, tmp_path / "demo.log", None) as demo:
        demo.spawn()
        demo.wait_for_log(lambda text: "leads in term" in text or None)
        assert len(processes_below(place)) == 3
        os.kill(demo.pid, signal.SIGINT)
        wait_for(lambda: demo.returncode is not None, "the end of the demo")
        assert demo.returncode == 0
        assert "all members have stopped" in demo.log_text
        assert processes_below(place) == []


@pytest.mark.parametrize("words", [["--backends=nope"], ["--peer-transport=nope"]])
def test_demo_refuses_what_is_not_there(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before anything is started."""
    assert main(["demo", f"--data-dir={tmp_path}", *words]) == 1
    assert "nope" in capsys.readouterr().err

"""The shape of log lines, and where they go."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from revstore import logs
from revstore.errors import ConfigError

log = logs.get("revstore.test.logs")


def lines(path: Path) -> list[str]:
    """The lines of a log file."""
    return path.read_text(encoding="utf-8").splitlines()


def test_json_lines_have_the_shape_of_etcd(tmp_path: Path) -> None:
    """level, ts, logger, caller and msg come first, then the fields."""
    path = tmp_path / "log"
    with logs.setup("debug", "json", [str(path)]):
        log.info("applied", revision=5, took=0.25, key=b"\x00", path=tmp_path)
    line = json.loads(lines(path)[0])
    assert list(line)[:5] == ["level", "ts", "logger", "caller", "msg"]
    assert line["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["ts"])
    assert re.fullmatch(r"cli/test_logs\.py:\d+", line["caller"])
    assert (line["revision"], line["took"], line["path"]) == (5, 0.25, str(tmp_path))


def test_every_level_has_the_name_that_etcd_uses(tmp_path: Path) -> None:
    """warn and fatal, not WARNING and CRITICAL."""
    path = tmp_path / "log"
    with logs.setup("debug", "json", [str(path)]):
        log.debug("m")
        log.warn("m")
        log.error("m")
        log.fatal("m")
    levels = [json.loads(line)["level"] for line in lines(path)]
    assert levels == ["debug", "warn", "error", "fatal"]


def test_levels_below_are_not_written(tmp_path: Path) -> None:
    """What is below the level is dropped."""
    path = tmp_path / "log"
    with logs.setup("warn", "json", [str(path)]):
        log.info("quiet")
        log.warn("loud")
        assert not log.enabled(logging.INFO)
    assert len(lines(path)) == 1


def test_exceptions_carry_a_stacktrace(tmp_path: Path) -> None:
    """The exception being handled is written with its traceback, in one line."""
    path = tmp_path / "log"
    with logs.setup("info", "json", [str(path)]):
        try:
            raise ValueError("inner")
        except ValueError:
            log.exception("failed")
    assert "ValueError: inner" in json.loads(lines(path)[0])["stacktrace"]


def test_console_lines_are_tab_separated(tmp_path: Path) -> None:
    """The console form keeps one line and writes fields as JSON."""
    path = tmp_path / "log"
    with logs.setup("info", "console", [str(path)]):
        log.info("hello", key="v")
    parts = lines(path)[0].split("\t")
    assert parts[1:3] == ["info", "revstore.test.logs"]
    assert parts[4:] == ["hello", '{"key":"v"}']


def test_odd_fields_never_raise(tmp_path: Path) -> None:
    """Fields that JSON does not know, or with reserved names, are written all the same."""
    path = tmp_path / "log"
    with logs.setup("info", "json", [str(path)]):
        log.info("odd", msg="mine", big=2**100, broken="\ud800", mapping={(1, 2): 3})
        logging.getLogger("other").info("from %s", "elsewhere")
    first, second = [json.loads(line) for line in lines(path)]
    assert first["msg_"] in ("mine", "'mine'")
    assert second["msg"] == "from elsewhere"


def test_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several outputs get every line once, and default means stderr."""
    path = tmp_path / "log"
    with logs.setup("info", "console", ["default", "stderr", "stdout", str(path)]):
        log.info("x")
    captured = capsys.readouterr()
    assert captured.err == captured.out == path.read_text(encoding="utf-8")


def test_closing_puts_the_old_handlers_back(tmp_path: Path) -> None:
    """After close the process logs as before."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    logs.setup("info", "json", [str(tmp_path / "log")]).close()
    assert (list(root.handlers), root.level) == before


def test_rotation_keeps_the_number_of_files(tmp_path: Path) -> None:
    """A file is rotated at its size, and only so many are kept."""
    path = tmp_path / "log"
    rotation = logs.parse_rotation('{"maxsize":1,"maxbackups":1}')
    with logs.setup("info", "json", [str(path)], rotation):
        for _ in range(5):
            log.info("x" * 600_000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1"]


@pytest.mark.parametrize(
    ("level", "form", "outputs", "message"),
    [
        ("loud", "json", ["stderr"], "log-level: 'loud' is none of debug"),
        ("info", "xml", ["stderr"], "neither json nor console"),
        ("info", "json", ["/no/such/dir/x"], "/no/such/dir/x cannot be opened"),
    ],
)
def test_wrong_settings_are_refused(
    level: str, form: str, outputs: list[str], message: str
) -> None:
    """Each refusal names the setting."""
    with pytest.raises(ConfigError, match=message):
        logs.setup(level, form, outputs)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"maxsize":"x"}', '{"a":1}', '{"maxsize":0}']
)
def test_wrong_rotation_is_refused(text: str) -> None:
    """Rotation settings are checked as a whole."""
    with pytest.raises(ConfigError, match="log-rotation-config-json"):
        logs.parse_rotation(text)


def test_rotation_needs_one_file() -> None:
    """Streams cannot be rotated."""
    with pytest.raises(ConfigError, match="exactly one output, a file"):
        logs.setup("info", "json", ["stderr"], logs.Rotation())

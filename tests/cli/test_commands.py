"""The commands: what they print, where, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from revstore import logs
from revstore.cli.main import main
from revstore.config.settings import SETTINGS
from revstore.errors import StorageError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the test run reaches a command."""
    import os

    for name in list(os.environ):
        if name.startswith(("REVSTORE_", "ETCD_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


Captured = pytest.CaptureFixture[str]


def run(capsys: Captured, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("words", [["version"], ["--version"], ["serve", "--version"]])
def test_versions(capsys: Captured, words: list[str]) -> None:
    """All three spellings print the block with etcd's own line in it."""
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "revstore Version: " in out
    assert "\netcd Version: 3.6." in out


def test_version_imports_little() -> None:
    """Start-up stays quick: no plugin, no wire format, no TOML for a version."""
    code = (
        "import sys\n"
        "from revstore.cli.main import main\n"
        "assert main(['version']) == 0\n"
        "heavy = {'msgspec', 'pluggy', 'google.protobuf', 'asyncio', 'tomllib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-h"],
        ["serve", "--help"],
        ["serve", "-h"],
        ["config", "--help"],
        ["config", "show", "--help"],
        ["config", "check", "--help"],
        ["plugins", "--help"],
        ["plugins", "doctor", "--help"],
    ],
)
def test_help_everywhere(capsys: Captured, words: list[str]) -> None:
    """Every command explains itself and ends well."""
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "Usage: revstore" in out


def test_help_of_serve_has_every_setting(capsys: Captured) -> None:
    """No setting is missing from the help."""
    out = run(capsys, "serve", "--help")[1]
    assert [name for name in SETTINGS if f"  --{name}" not in out] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["srve"], "did you mean 'serve'"),
        (["plugins", "list", "--nope"], "No such option"),
        (["plugins", "show"], "Missing argument"),
        (["serve", "--nam=x"], "did you mean --name"),
        (["serve", "stray"], "'stray' is not a flag"),
        (["config", "show", "stray"], "'stray' is not a flag"),
    ],
)
def test_wrong_usage_ends_with_2(
    capsys: Captured, words: list[str], message: str
) -> None:
    """A command line that cannot be understood gives exit code 2 and one error."""
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("error: ") == 1
    assert "Traceback" not in err


def test_config_check_tells_all_problems(capsys: Captured, tmp_path: Path) -> None:
    """Each problem is one line; the exit code is 1."""
    file = tmp_path / "a.toml"
    file.write_text('[server]\nnam = "x"\nmax-txn-ops = 0\n')
    code, out, err = run(capsys, "config", "check", str(file))
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"error: {file}:2: there is no setting nam; did you mean name?",
        f"error: {file}:3: max-txn-ops: must be at least 1",
    ]


def test_config_check_looks_at_plugins_and_their_options(
    capsys: Captured, tmp_path: Path
) -> None:
    """Unknown plugins and options are found, with the line."""
    file = tmp_path / "a.toml"
    file.write_text(
        '[server]\nbackend = "memory"\nwal = "x"\n[backend.memory]\ny = 1\n'
    )
    code, _, err = run(capsys, "config", "check", str(file))
    assert code == 1
    assert f"error: {file}:3: there is no wal plugin 'x'" in err
    assert f"error: {file}:5: backend 'memory' has no options, so 'y' cannot" in err


def test_config_check_refuses_a_cluster_on_solo(
    capsys: Captured, tmp_path: Path
) -> None:
    """Several members need a consensus that can do them."""
    file = tmp_path / "a.toml"
    file.write_text(
        '[server]\nbackend = "memory"\nconsensus = "solo"\n'
        'initial-cluster = "default=http://localhost:2380,b=http://10.0.0.2:2380"\n'
    )
    code, _, err = run(capsys, "config", "check", str(file))
    assert code == 1
    assert (
        "has 2 members but consensus 'solo' is for one alone; use consensus=raft" in err
    )


def test_config_check_of_a_good_file(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good file is told to be good, whatever the environment says."""
    monkeypatch.setenv("REVSTORE_MAX_TXN_OPS", "0")
    file = tmp_path / "a.toml"
    file.write_text('[server]\nbackend = "memory"\nmemory-mlock = true\n')
    code, out, err = run(capsys, "config", "check", str(file))
    assert (code, out) == (0, f"{file}: ok\n")
    assert err.startswith(f"warning: {file}:3: memory-mlock has no effect here")


def test_config_show_tells_values_and_origins(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table and the JSON say the same: every setting, value and origin."""
    monkeypatch.setenv("ETCD_NAME", "n")
    words = ["config", "show", "--profile=embedded", "--auto-compaction-retention=1"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in out.splitlines()}
    assert rows["name"] == ["n", "environment ETCD_NAME"]
    assert rows["auto-compaction-retention"] == [
        "1h",
        "flag --auto-compaction-retention",
    ]
    assert rows["log-level"] == ["warn", "profile embedded"]
    code, out, _ = run(capsys, *words, "--json")
    document = json.loads(out)
    assert set(document) >= set(SETTINGS)
    assert document["name"] == {
        "value": "n",
        "text": "n",
        "origin": "environment ETCD_NAME",
    }
    assert document["auto-compaction-retention"]["value"] == 3600
    assert set(rows) - {"SETTING"} == set(document)


def test_plugins_list(capsys: Captured) -> None:
    """Every plugin is listed, as a table and as JSON, and no driver is loaded."""
    before = set(sys.modules)
    code, out, _ = run(capsys, "plugins", "list")
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["NAME", "KIND", "VERSION"]
    assert "memory" in out
    code, out, _ = run(capsys, "plugins", "list", "--json")
    names = {report["name"]: report for report in json.loads(out)}
    assert names["memory"]["kind"] == "backend"
    assert names["memory"]["status"] == "ok"
    assert not {"lmdb", "rocksdict", "grpc"} & (set(sys.modules) - before)


def test_plugins_show(capsys: Captured) -> None:
    """One plugin is shown with capabilities and options; a wrong name gets a hint."""
    code, out, _ = run(capsys, "plugins", "show", "memory")
    assert code == 0
    assert "backend memory: " in out
    assert "persistent = False" in out
    code, out, _ = run(capsys, "plugins", "show", "lmdb", "--json")
    detail = json.loads(out)[0]
    assert detail["extra"] == "lmdb"
    assert all({"name", "type", "default"} == set(each) for each in detail["options"])
    code, out, err = run(capsys, "plugins", "show", "memry")
    assert (code, out) == (1, "")
    assert "did you mean 'memory'?" in err


def test_doctor_tries_every_plugin(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing driver makes the doctor say what to install and end with 1."""
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for name in [name for name in sys.modules if name.startswith("revstore_lmdb")]:
        monkeypatch.delitem(sys.modules, name)
    code, out, err = run(capsys, "plugins", "doctor")
    assert code == 1
    assert "ok    backend memory\n" in out
    assert "FAIL  backend lmdb\n" in out
    assert "pip install 'revstore[lmdb]'" in out
    assert "plugins cannot be used" in err
    code, out, _ = run(capsys, "plugins", "doctor", "--json")
    problems = {each["name"]: each["problem"] for each in json.loads(out)}
    assert problems["memory"] == ""
    assert "revstore[lmdb]" in problems["lmdb"]


def fake_server(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[Any]:
    """Stand in for the server; returns what it is called with."""
    calls: list[Any] = []

    def run_server(loaded: Any) -> int:
        calls.append(loaded)
        if isinstance(outcome, BaseException):
            raise outcome
        logs.get("revstore.test").info("serving", name=loaded.config.name)
        return int(outcome)

    module = types.ModuleType("revstore.node.server")
    module.run = run_server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "revstore.node.server", module)
    import revstore.node

    monkeypatch.setattr(revstore.node, "server", module, raising=False)
    return calls


def test_serve_hands_the_configuration_over(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gets the loaded configuration; its result is the exit code."""
    calls = fake_server(monkeypatch, 0)
    code, out, err = run(
        capsys, "serve", "-name", "x", "--backend=memory", "--memory-mlock"
    )
    assert (code, out) == (0, "")
    assert calls[0].config.name == "x"
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["msg"] for line in lines] == ["configuration", "serving"]
    assert "memory-mlock has no effect" in lines[0]["warning"]
    assert lines[1]["name"] == "x"
    assert fake_server(monkeypatch, 1) == []
    assert run(capsys, "serve", "--backend=memory")[0] == 1


def test_serve_refuses_before_it_starts(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong settings, plugins and options never reach the server."""
    calls = fake_server(monkeypatch, 0)
    for words, message in (
        (["--max-txn-ops=0"], "flag --max-txn-ops: max-txn-ops: must be at least 1"),
        (["--backend=memori"], "flag --backend: there is no backend plugin 'memori'"),
        (["--backend=memory", "--set=memory.x=1"], "flag --set: backend 'memory' has"),
        (["--config-file=etcd.yaml"], "give it with --config FILE"),
        (["--config=none.toml"], "none.toml cannot be read"),
    ):
        code, _, err = run(capsys, "serve", *words)
        assert code == 1
        assert message in err
        assert "Traceback" not in err
    assert calls == []


def test_failures_are_one_line_and_a_traceback_on_demand(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only --debug or REVSTORE_DEBUG shows a traceback; a bug says that it is one."""
    fake_server(monkeypatch, StorageError("disk is gone"))
    words = ["serve", "--backend=memory"]
    assert run(capsys, *words) == (1, "", "error: disk is gone\n")
    for code, _, err in (
        run(capsys, *words, "--debug"),
        run(capsys, "--debug", *words),
    ):
        assert code == 1
        assert "Traceback" in err
        assert err.endswith("error: disk is gone\n")
    monkeypatch.setenv("REVSTORE_DEBUG", "1")
    assert "Traceback" in run(capsys, *words)[2]
    monkeypatch.delenv("REVSTORE_DEBUG")
    fake_server(monkeypatch, KeyError("x"))
    assert "this is a bug in revstore (KeyError)" in run(capsys, *words)[2]
    fake_server(monkeypatch, KeyboardInterrupt())
    assert run(capsys, *words)[2] == "error: interrupted\n"

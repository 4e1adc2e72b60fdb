"""``revstore ctl`` against a real server, beside etcdctl where both say the same."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revstore.cli.main import main
from tests.clients.etcdctl import ENV, ETCDCTL, NO_ETCDCTL
from tests.support.server import ServerProcess, start_server

pytestmark = pytest.mark.slow

URLS = "http://127.0.0.1:0,tcp://127.0.0.1:0"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A member that serves both transports."""
    folder = tmp_path_factory.mktemp("ctl")
    with start_server("memory", folder / "data", listen_client_urls=URLS) as found:
        yield found


class Ctl:
    """Runs commands at one endpoint."""

    def __init__(self, url: str, capsys: Captured) -> None:
        self.url = url
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        code = main(["ctl", *words, "--endpoints", self.url, "--command-timeout=20s"])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def out(self, *words: str) -> str:
        """The output of a command that succeeds."""
        code, out, err = self.run(*words)
        assert (code, err) == (0, ""), (words, out, err)
        return out

    def json(self, *words: str) -> Any:
        """The same as JSON."""
        return json.loads(self.out(*words, "--output=json"))


@pytest.fixture(params=["http", "tcp"])
def ctl(server: ServerProcess, capsys: Captured, request: pytest.FixtureRequest) -> Ctl:
    """Commands over one of the transports, on an empty store."""
    urls: list[str] = server.ready["addresses"]
    found = Ctl(next(u for u in urls if u.startswith(request.param)), capsys)
    found.out("del", "", "--prefix")
    return found


def test_keys(ctl: Ctl) -> None:
    """Put, get in all forms, delete."""
    assert ctl.out("put", "a", "1") == "OK\n"
    assert ctl.out("put", "a", "2", "--prev-kv") == "OK\na\n1\n"
    ctl.out("put", "b", "x")
    assert ctl.out("get", "a") == "a\n2\n"
    assert ctl.out("get", "a", "b") == "a\n2\n"
    assert ctl.out("get", "", "--prefix") == "a\n2\nb\nx\n"
    assert ctl.out("get", "b", "--from-key", "--keys-only") == "b\n"
    assert ctl.out("get", "", "--prefix", "--order=descend", "--limit=1") == "b\nx\n"
    assert ctl.out("get", "a", "--print-value-only", "--consistency=s") == "2\n"
    assert ctl.out("get", "", "--prefix", "--count-only") == "2\n"
    assert ctl.out("get", "nothing") == ""
    found = ctl.json("get", "a")
    first = found["pairs"][0]
    assert (first["key"], first["value"], first["version"]) == ("a", "2", 2)
    assert ctl.out("get", "a", f"--rev={first['create_revision']}") == "a\n1\n"
    assert ctl.out("get", "a", "-w", "table").splitlines()[0].split()[:2] == [
        "KEY",
        "VALUE",
    ]
    assert ctl.out("del", "a", "--prev-kv") == "1\na\n2\n"
    assert ctl.json("del", "", "--prefix")["deleted"] == 1


def test_values_from_standard_input(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put without a value takes what comes, bytes and all."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"raw\xff\n")))
    ctl.out("put", "bin")
    assert ctl.json("get", "bin")["pairs"][0]["value_base64"] == "cmF3/wo="


def test_transactions(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from standard input; both branches."""
    text = 'version("t") = "0"\n\nput t 1\nget t\n\nget t\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert ctl.out("txn") == "SUCCESS\n\nOK\n\nt\n1\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    found = ctl.json("txn")
    assert not found["succeeded"]
    assert found["answers"][0]["pairs"][0]["value"] == "1"


def test_watching(ctl: Ctl) -> None:
    """The history from a revision on, as lines and as JSON lines."""
    first = ctl.json("put", "w", "1")["revision"]
    ctl.out("put", "w", "2")
    ctl.out("del", "w")
    words = ["watch", "w", f"--rev={first}", "--events=3", "--prev-kv"]
    text = "PUT\nw\n1\nPUT\nw\n1\nw\n2\nDELETE\nw\n2\nw\n\n"
    assert ctl.out(*words) == text
    lines = ctl.out(*words, "-w", "json").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["type"] for event in events] == ["put", "put", "delete"]
    assert [event["revision"] for event in events] == [first, first + 1, first + 2]
    assert events[2]["prev"]["value"] == "2"


def test_compaction(ctl: Ctl) -> None:
    """What is compacted is refused, with a hint."""
    ctl.out("put", "c", "1")
    last = ctl.json("put", "c", "2")["revision"]
    assert str(last) in ctl.out("compaction", str(last), "--physical")
    code, out, err = ctl.run("get", "c", f"--rev={last - 1}")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "error: etcdserver: mvcc: required revision has been compacted",
        "hint: ask for a newer revision; the old ones are compacted",
    ]
    code, _, err = ctl.run("watch", "c", f"--rev={last - 1}")
    assert code == 1
    assert f"start at revision {last} or later" in err


def test_leases(ctl: Ctl) -> None:
    """Grant with an id, attach, look, renew, revoke."""
    assert ctl.json("lease", "grant", "60", "--id=abc") == {"id": "abc", "ttl": 60}
    ctl.out("put", "held", "1", "--lease=abc")
    info = ctl.json("lease", "timetolive", "abc", "--keys")
    assert (info["granted_ttl"], info["keys"]) == (60, ["held"])
    assert "abc" in ctl.json("lease", "list")["leases"]
    assert ctl.json("lease", "keep-alive", "abc", "--once")["ttl"] == 60
    ctl.out("lease", "revoke", "abc")
    assert ctl.out("get", "held") == ""
    code, _, err = ctl.run("lease", "revoke", "abc")
    assert code == 1
    assert "hint: it expired or was revoked" in err
    code, out, _ = ctl.run("lease", "timetolive", "abc")
    assert (code, out) == (1, "lease 0000000000000abc already expired\n")


def test_endpoints(ctl: Ctl) -> None:
    """Status, health and checksum of one that is up and one that is down."""
    table = ctl.out("endpoint", "status").splitlines()
    assert table[0].split()[:3] == ["ENDPOINT", "ID", "VERSION"]
    assert " leader " in table[1]
    assert ctl.json("endpoint", "health")[0]["healthy"]
    assert ctl.json("endpoint", "hashkv")[0]["hash"] > 0
    both = Ctl(f"{ctl.url},http://127.0.0.1:1", ctl._capsys)
    code, out, err = both.run("endpoint", "status", "-w", "json")
    assert (code, err) == (1, "")
    up, down = json.loads(out)
    assert up["is_leader"]
    assert down["error"]
    code, out, _ = both.run("endpoint", "health")
    assert code == 1
    assert [line.split()[1] for line in out.splitlines()[1:]] == [
        "healthy",
        "unhealthy",
    ]
    code, _, err = both.run("endpoint", "hashkv")
    assert code == 1
    assert err.startswith("error: http://127.0.0.1:1: ")


def test_the_member_and_its_data(ctl: Ctl, tmp_path: Path) -> None:
    """Members, alarms, defragmentation and a snapshot."""
    (member,) = ctl.json("member", "list")
    assert member["name"] == "default"
    assert ctl.out("alarm", "list") == ctl.out("alarm", "disarm") == ""
    assert ctl.url in ctl.out("defrag")
    file = tmp_path / "data.snap"
    saved = ctl.json("snapshot", "save", str(file))
    assert saved == {"file": str(file), "bytes": file.stat().st_size}
    assert [path.name for path in tmp_path.iterdir()] == ["data.snap"]
    two = Ctl(f"{ctl.url},http://127.0.0.1:1", ctl._capsys)
    code, _, err = two.run("snapshot", "save", str(file))
    assert code == 2
    assert "give one endpoint" in err
    code, _, err = ctl.run("move-leader", "1")
    assert code == 1
    assert "hint: it must be the id of another voter" in err


def test_users(tmp_path: Path, capsys: Captured) -> None:
    """Users, roles, permissions; what is refused says what to do."""
    with start_server("memory", tmp_path / "data") as server:
        ctl = Ctl(server.url, capsys)
        ctl.out("user", "add", "root:r")
        ctl.out("role", "add", "root")
        ctl.out("user", "grant-role", "root", "root")
        ctl.out("user", "add", "u", "--new-user-password=p")
        ctl.out("role", "add", "readers")
        ctl.out("role", "grant-permission", "readers", "read", "pub/", "--prefix")
        ctl.out("user", "grant-role", "u", "readers")
        assert "Authentication Enabled" in ctl.out("auth", "enable")
        code, _, err = ctl.run("put", "pub/1", "1")
        assert code == 1
        assert "give --user" in err
        code, _, err = ctl.run("put", "pub/1", "1", "--user=u:p")
        assert code == 1
        assert "ask for a role" in err
        code, _, err = ctl.run("get", "pub/1", "--user=u:wrong")
        assert code == 1
        assert "check the name and the password" in err
        ctl.out("put", "pub/1", "1", "--user=root:r")
        assert ctl.out("get", "pub/1", "--user=u", "--password=p") == "pub/1\n1\n"
        assert ctl.json("user", "get", "u", "--user=root:r")["roles"] == ["readers"]
        assert ctl.out("user", "list", "--user=root:r") == "root\nu\n"
        shown = ctl.json("role", "get", "readers", "--user=root:r")
        assert shown["permissions"] == [{"kind": "READ", "key": "pub/", "end": "pub0"}]
        assert ctl.json("auth", "status", "--user=root:r")["enabled"]
        assert ctl.out("endpoint", "health", "--user=u:p").count("healthy") == 1
        ctl.out("auth", "disable", "--user=root:r")


@pytest.mark.etcd
@pytest.mark.parametrize(
    "words",
    [
        "put k v",
        "put k w --prev-kv",
        "get k",
        "get '' --prefix",
        "get k --print-value-only",
        "get none",
        "lease revoke 1",
        "alarm list",
        "user list",
        "role list",
        "del k",
    ],
)
def test_it_says_what_etcdctl_says(
    server: ServerProcess, capsys: Captured, words: str
) -> None:
    """The same lines on standard output, and success or failure alike."""
    if ETCDCTL is None:
        pytest.skip(NO_ETCDCTL)
    given = [word.strip("'") for word in words.split()]
    ctl = Ctl(server.url, capsys)
    ctl.out("put", "k", "v")
    code, ours, _ = ctl.run(*given)
    ctl.out("put", "k", "v")
    done = subprocess.run(
        [ETCDCTL, f"--endpoints={server.url}", "--command-timeout=15s", *given],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (code == 0) == (done.returncode == 0), done.stderr
    assert ours == done.stdout

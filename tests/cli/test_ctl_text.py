"""``revstore ctl`` without a server: flags, the language of transactions, hints."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from revstore.api import errors
from revstore.api.errors import Code
from revstore.cli.ctl_options import Duration, value_of
from revstore.cli.ctl_run import HINTS, hint
from revstore.cli.ctl_show import fields_of, size_text, text_of
from revstore.cli.ctl_txn import parse
from revstore.cli.main import main
from revstore.client.retry import OutcomeUnknown
from revstore.embedded.txn import Compare, Delete, Get, Put
from revstore.errors import ApiError, Unavailable, UsageError

Captured = pytest.CaptureFixture[str]


def run(capsys: Captured, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main(["ctl", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


COMMANDS = [
    "get",
    "put",
    "del",
    "txn",
    "compaction",
    "watch",
    "lease",
    "lease grant",
    "lease keep-alive",
    "endpoint",
    "endpoint status",
    "endpoint health",
    "endpoint hashkv",
    "member",
    "member list",
    "member add",
    "member promote",
    "move-leader",
    "alarm disarm",
    "defrag",
    "snapshot save",
    "auth enable",
    "user add",
    "user grant-role",
    "role grant-permission",
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_explains_itself(capsys: Captured, words: str) -> None:
    """And those that connect show the flags of the connection."""
    code, out, err = run(capsys, *words.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Usage: revstore ctl {words}" in out
    if "COMMAND [ARGS]" not in out:
        assert "--endpoints" in out


def test_help_imports_little() -> None:
    """The help comes quickly: no client, no wire format, no event loop."""
    code = (
        "import sys\n"
        "from revstore.cli.main import main\n"
        "assert main(['ctl', '--help']) == 0\n"
        "heavy = {'msgspec', 'pluggy', 'google.protobuf', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["membr"], "did you mean 'member'"),
        (["get"], "Missing argument"),
        (["get", "a", "b", "--prefix"], "give one of"),
        (["get", ""], "a key must not be empty"),
        (["get", "a", "--endpoints", "nonsense"], "http://127.0.0.1:2379"),
        (["get", "a", "--command-timeout", "soon"], "no duration"),
        (["get", "a", "--password", "x"], "needs --user"),
        (["get", "a", "--user", "name:"], "needs a password"),
        (["lease", "revoke", "xyz"], "hexadecimal"),
        (["member", "remove", "xyz"], "hexadecimal"),
        (["member", "add", "x"], "--peer-urls"),
        (["role", "grant-permission", "r", "own", "k"], "is not one of"),
    ],
)
def test_wrong_usage_ends_with_2(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    """What cannot be understood gives exit code 2, and says how it is written; nobody
    is asked for that."""

    async def connect(*_: object, **__: object) -> object:
        return FakeClient()

    if "--user" not in words:
        monkeypatch.setattr("revstore.cli.ctl_run.connect", connect)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


class FakeClient:
    """A client that nobody calls."""

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def test_nobody_there(capsys: Captured) -> None:
    """Exit code 1, one error with the reason, one hint."""
    code, out, err = run(
        capsys, "get", "a", "--endpoints=127.0.0.1:1", "--dial-timeout=300ms"
    )
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: no endpoint can be reached (http://127.0.0.1:1:")
    assert lines[1].startswith("hint: check --endpoints")


def test_flags_win_over_the_environment() -> None:
    """Behind the command, then before it, then our variable, then etcdctl's."""
    environ = {"ETCDCTL_USER": "d", "REVSTORECTL_USER": "c"}
    before, behind = {"flag_user": "b"}, {"flag_user": "a"}
    assert value_of("user", behind, before, environ) == "a"
    assert value_of("user", {"flag_user": None}, before, environ) == "b"
    assert value_of("user", {}, {}, environ) == "c"
    assert value_of("user", {}, {}, {"ETCDCTL_USER": "d"}) == "d"
    assert value_of("user", {}, {}, {}) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("1.5m", 90), ("2h", 7200), ("3", 3)],
)
def test_durations(text: str, seconds: float) -> None:
    """As Go writes them, and plain seconds."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "0", "5 parsecs", "ms", "nan"])
def test_what_is_no_duration(text: str) -> None:
    """The error shows the form."""
    with pytest.raises(click.BadParameter, match="500ms"):
        Duration().convert(text, None, None)


def test_a_transaction_is_read() -> None:
    """Conditions of all kinds, quoted words, ranges; empty parts."""
    compare, success, failure = parse(
        'value("a b") = "x \\"y\\""\nversion("k") > "0"\nmod("k") < 9\n'
        'create("k") != "1"\nlease("k") = "1f"\n\n'
        'put k "two words"\nput k v --lease=1f\nget a b\n\ndel p --prefix\n'
    )
    assert compare == [
        Compare.value("a b", "=", 'x "y"'),
        Compare.version("k", ">", 0),
        Compare.mod("k", "<", 9),
        Compare.create("k", "!=", 1),
        Compare.lease("k", "=", 0x1F),
    ]
    assert success == [
        Put("k", "two words"),
        Put("k", "v", 0x1F),
        Get(key="a", end="b"),
    ]
    assert failure == [Delete(prefix="p")]
    assert parse("\nput a b\n\n\n") == ([], [Put("a", "b")], [])
    assert parse("") == ([], [], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("what", "is no condition"),
        ('version("k") = "many"', "compares a number"),
        ('size("k") = "1"', "is no condition"),
        ("\nput a", "is no operation"),
        ("\nset a b", "is no operation"),
        ('\nput "a b', "cannot be read"),
        ("\nget a --rev=3", "is not known here"),
        ('value("a") = "b"\n\nput a b\n\nget a\n\nget b', "three parts"),
    ],
)
def test_what_is_no_transaction(text: str, message: str) -> None:
    """The error names the line and shows how it is written."""
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_hints_say_what_to_do() -> None:
    """For an unknown outcome, for silence, and for answers that can be helped."""
    assert "look before" in hint(OutcomeUnknown(Code.UNAVAILABLE, "lost"))
    assert "--endpoints" in hint(Unavailable("nobody"))
    untrusted = Unavailable("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")
    assert "--cacert" in hint(untrusted)
    assert "https://" in hint(Unavailable("lost: the other side closed it"))
    assert "--user" in hint(errors.USER_EMPTY)
    assert hint(ApiError(Code.UNKNOWN, "something else")) == ""
    known = {
        error.message for error in vars(errors).values() if isinstance(error, ApiError)
    }
    assert HINTS.keys() <= known


def test_bytes_that_are_no_text() -> None:
    """They are shown in hexadecimal, and come in base64 for programs."""
    assert text_of(b"a\xff") == "a\\xff"
    assert fields_of("key", b"a\xff") == {"key": "a\\xff", "key_base64": "Yf8="}
    assert fields_of("key", "\u00e4".encode()) == {"key": "\u00e4"}


def test_sizes_for_people() -> None:
    """In the largest unit that fits."""
    sizes = [0, 1023, 1024, 5 * 1024**2, 3 * 1024**5]
    assert [size_text(size) for size in sizes] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3072.0 TiB",
    ]

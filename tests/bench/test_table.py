"""The loads beside etcd run, and a server that answers wrongly fails them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from revstore.proto import rpc_pb2
from revstore_bench import grpc, table, watching
from revstore_bench.grpc import TLS_LOADS, GrpcCase
from revstore_bench.idle import IdleCase, Size
from revstore_bench.load import LoadReport
from revstore_bench.model import TINY, Case, Row, series_of
from revstore_bench.ranging import RangingCase
from revstore_bench.run import run
from revstore_bench.secure import make_certificate
from revstore_bench.serving import RANGE_PATH
from revstore_bench.table import main, makers
from revstore_bench.trio import TrioCase
from revstore_bench.watching import WatchingCase, quantile
from revstore_bench.wire import Wire
from tests.support.etcd import ETCD, NO_ETCD

FLAGS = ("--transport=grpc",)
SMALL = Size(streams=20, leases=20, seconds=0.5)
beside_etcd = [
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.skipif(ETCD is None, reason=NO_ETCD),
]


def small(name: str, place: Path) -> Case:
    """A case of the table that asks for little."""
    scale = msgspec.structs.replace(TINY, calls=1000, in_flight=100)
    made: dict[str, Callable[[], Case]] = {
        "one": lambda: GrpcCase(scale, place, FLAGS),
        "three": lambda: TrioCase(scale, place, FLAGS),
        "watch": lambda: WatchingCase(scale, place, FLAGS, 20, 100, 20),
        "idle": lambda: IdleCase(scale, place, FLAGS, SMALL),
        "range": lambda: RangingCase(scale, place, FLAGS, 250, 9),
        "tls": lambda: GrpcCase(scale, place, FLAGS, "tls", TLS_LOADS),
    }
    return made[name]()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=beside_etcd)
        for name in ("one", "three", "watch", "idle", "range", "tls")
    ],
)
def test_a_case_has_every_figure_that_its_rows_name(name: str, tmp_path: Path) -> None:
    """A case runs and its samples hold the figures of its rows, none negative."""
    report = run([small(name, tmp_path / name)], TINY, tmp_path, lambda text: None)
    case = report.cases[0]
    assert case.error == ""
    for row in case.rows:
        for figure in filter(None, (row.figure, row.beside, row.target_of)):
            values = series_of(case.samples, figure).values
            assert len(values) == TINY.repetitions, figure
            # Memory and processor time of so little work may be too small to see.
            least = 0 if re.search("mb_|cpu", figure) else 1e-9
            assert min(values) >= least, figure


def lost_puts(monkeypatch: pytest.MonkeyPatch) -> None:
    """More puts are answered than were made."""
    real = grpc.flood

    def flood(*arguments: Any) -> LoadReport:
        report = real(*arguments)
        return msgspec.structs.replace(report, calls=report.calls + 1)

    monkeypatch.setattr(grpc, "flood", flood)


def empty_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gets go to keys that nobody has put."""
    real = grpc.requests

    def requests(path: str, *rest: Any) -> list[bytes]:
        if path == RANGE_PATH:
            return [rpc_pb2.RangeRequest(key=b"absent").SerializeToString()]
        return real(path, *rest)

    monkeypatch.setattr(grpc, "requests", requests)


def tampered(
    of: bytes, by: bytes, nth: int = 1
) -> Callable[[pytest.MonkeyPatch], None]:
    """What comes is changed at one place."""

    def tamper(monkeypatch: pytest.MonkeyPatch) -> None:
        real, seen = Wire.receive, 0

        def receive(wire: Wire) -> dict[int, bytes]:
            nonlocal seen
            found = real(wire)
            for stream, body in found.items():
                if of in body:
                    seen += 1
                    found[stream] = body.replace(of, by, 1) if seen == nth else body
            return found

        monkeypatch.setattr(Wire, "receive", receive)

    return tamper


# A grant and a renewal look the same but for their headers.
LEASE = rpc_pb2.LeaseKeepAliveResponse(ID=1, TTL=30).SerializeToString()
LEASE_SHORT = rpc_pb2.LeaseKeepAliveResponse(ID=1, TTL=29).SerializeToString()

WRONG: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = {
    "puts that are not there": ("one", lost_puts, "calls made"),
    "puts that are not there, three": ("three", lost_puts, "calls made"),
    "gets that find nothing": ("one", empty_answers, "no values"),
    "another event to a watcher": (
        "watch",
        tampered(b"<00000001>", b"<00000002>"),
        "not every watcher",
    ),
    "another event under load": (
        "watch",
        tampered(b"<00000011>", b"<00000012>"),
        "an event came twice",
    ),
    "a lease with less of a life": (
        "idle",
        tampered(LEASE, LEASE_SHORT, 2),
        "lease 1 got 29 s",
    ),
    "a lease granted for less": (
        "idle",
        tampered(LEASE, LEASE_SHORT, 1),
        "no lease was granted",
    ),
    "a watcher that hears of another key": (
        "idle",
        tampered(b"idle/00000003", b"idle/00000004"),
        "another key",
    ),
    "a range with another key": (
        "range",
        tampered(b"range/00000033", b"range/00000034", 2),
        "did not bring what was put",
    ),
    "a later range with another key": (
        "range",
        tampered(b"range/00000033", b"range/00000034", 3),
        "something else",
    ),
}


@pytest.mark.parametrize(
    "wrong", [pytest.param(name, marks=beside_etcd) for name in WRONG]
)
def test_a_wrong_answer_fails_the_load(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case whose answers are not what they should be has a reason and no figures."""
    name, tamper, reason = WRONG[wrong]
    tamper(monkeypatch)
    report = run([small(name, tmp_path / name)], TINY, tmp_path, lambda text: None)
    assert reason in report.cases[0].error
    assert not report.cases[0].samples


@pytest.mark.parametrize(
    ("part", "value"), [(0.0, 1.0), (0.49, 1.0), (0.5, 2.0), (0.99, 9.0), (1.0, 9.0)]
)
def test_quantiles_of_counts(part: float, value: float) -> None:
    """A latency that many events have counts as often as they are."""
    assert quantile([(1.0, 50), (2.0, 48), (9.0, 2)], part) == value


def test_numbers_are_found_once_wherever_the_bytes_are_cut() -> None:
    """What is carried over to the next read completes a number and repeats none."""
    text = b"x<00000001>.<00000002>yy<00000003>"
    for cut in range(len(text) + 1):
        first = watching.NUMBER.findall(text[:cut])
        carried = text[:cut][-watching.CARRY_BYTES :]
        rest = watching.NUMBER.findall(carried + text[cut:])
        assert first + rest == [b"00000001", b"00000002", b"00000003"], cut


def test_a_client_trusts_its_own_certificate(tmp_path: Path) -> None:
    """The certificate is made, and a client's context takes it as its authority."""
    made = make_certificate(tmp_path)
    assert made.client_context().get_ca_certs()
    assert made.key.read_text().startswith("-----BEGIN")


def test_cases_are_listed_and_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """``--list`` names the cases that ``--only`` leaves; a wrong name is refused."""
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(makers(TINY, ()))
    assert main(["--list", "--only", "idle", "--only", "tls"]) == 0
    assert capsys.readouterr().out.split() == ["idle", "tls"]
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])
    assert "no case is named nothing" in capsys.readouterr().err


def test_one_report_of_all_cases(tmp_path: Path) -> None:
    """Cases run one after the other and stand in one report."""

    class Plain(Case):
        def sample(self, number: int) -> dict[str, float]:
            return {"a": 1.0}

        def rows(self) -> list[Row]:
            return []

    def plain(name: str) -> Callable[[Path], Case]:
        def make(place: Path) -> Case:
            case = Plain(TINY, place)
            case.name = name
            return case

        return make

    made = {name: plain(name) for name in ("first", "second")}
    report = table.run_all(made, TINY, tmp_path, lambda text: None)
    assert [case.name for case in report.cases] == ["first", "second"]


def test_a_large_message_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are put together however their bytes are cut, and none is invented."""
    body = b"".join(
        b"\0" + len(one).to_bytes(4, "big") + one
        for one in (b"first", b"", b"x" * 1000, b"last")
    )
    for step in (1, 4, 5, 6, 7, 999, len(body)):
        cut = [body[at : at + step] for at in range(0, len(body), step)]
        wire = object.__new__(Wire)
        wire._parts = {}
        pieces = iter(cut)
        monkeypatch.setattr(Wire, "receive", lambda self, left=pieces: {1: next(left)})
        found = [one for _ in cut for _, one in wire.messages()]
        assert found == [b"first", b"", b"x" * 1000, b"last"], step

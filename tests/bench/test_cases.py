"""Every benchmark case runs at a tiny size and reports what it promises to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from revstore_bench import big
from revstore_bench.__main__ import main
from revstore_bench.cases import all_cases
from revstore_bench.load import LoadError
from revstore_bench.model import TINY, Case, Row, Sample, Series, holds, series_of
from revstore_bench.report import CaseReport, Report, render
from revstore_bench.run import run
from revstore_bench.serving import PUT_PATH, ServingCase, puts

ETCD = "serve/etcd"
NAMES = [case.name for case in all_cases(TINY, Path("unused"))]


def _marked(name: str) -> object:
    child = name.startswith(("open/", "serve/", "budget", "cluster/"))
    marks = [pytest.mark.slow] if child else []
    return pytest.param(name, marks=marks)


def _case(name: str, directory: Path) -> Case:
    return next(one for one in all_cases(TINY, directory) if one.name == name)


@pytest.mark.parametrize("name", [_marked(name) for name in NAMES])
def test_a_case_has_every_figure_that_its_rows_name(name: str, tmp_path: Path) -> None:
    """A case runs and its samples hold the figures of its rows, all positive."""
    case = _case(name, tmp_path)
    report = run([case], TINY, tmp_path, lambda text: None).cases[0]
    assert report.error == ""
    for row in report.rows:
        for figure in filter(None, (row.figure, row.beside, row.target_of)):
            values = series_of(report.samples, figure).values
            assert len(values) == TINY.repetitions, figure
            # Memory and processor time of so little work may be too small to see.
            if "memory" not in figure and "cpu" not in figure:
                assert min(values) > 0, figure


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingCase]:
    """A server for a load."""
    case = ServingCase("lmdb", TINY, tmp_path / "serve")
    case.prepare()
    yield case
    case.close()


@pytest.mark.slow
def test_a_load_counts_only_calls_that_went_well(serving: ServingCase) -> None:
    """Calls of a method that the server does not have make the load fail."""
    target = serving.target
    report = target.load(PUT_PATH, puts(10, 0), 50, 10)
    assert report.calls == len(report.latencies_us) == 50
    with pytest.raises(LoadError):
        target.load("/etcdserverpb.KV/Nothing", puts(10, 0), 5, 5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["lmdb", "rocksdb"])
def test_the_memory_proof_runs_through_all_phases(backend: str, tmp_path: Path) -> None:
    """Each phase of the large store is run, and its memory is told."""
    said: list[str] = []
    phases = big.run(tmp_path / "data", backend, 300, 100, said.append)
    assert [phase.name for phase in phases][:3] == ["write", "overwrite", "range"]
    assert len(said) == len(phases)
    assert all(phase.peak_mb > 0 for phase in phases)


def _report(value: float, row: Row) -> Report:
    samples: list[Sample] = [{"rate": value}]
    return Report("tiny", {}, [CaseReport("a", [row], samples, {})])


@pytest.mark.parametrize(("value", "kept"), [(99.0, False), (100.0, True)])
def test_a_target_that_is_missed_is_called_so(value: float, kept: bool) -> None:
    """The table says NO, and the last line counts what does not hold."""
    row = Row(name="a", unit="puts/s", figure="rate", target_min=100.0)
    assert holds(row, [{"rate": value}]) is kept
    text = render(_report(value, row))
    assert ("NO" in text) is not kept
    assert ("do not hold" in text) is not kept


def test_a_case_that_breaks_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    """A failing case has its reason in the report, and no figures."""

    class Broken(Case):
        name = "broken"

        def sample(self, number: int) -> Sample:
            raise OSError("no disk")

        def rows(self) -> list[Row]:
            return [Row(name="broken", unit="us", figure="none")]

    report = run([Broken(TINY, tmp_path)], TINY, tmp_path, lambda text: None)
    assert report.cases[0].error == "OSError: no disk"
    assert "NO FIGURE" in render(report)


def test_a_report_keeps_every_sample(tmp_path: Path) -> None:
    """JSON holds the raw samples, so that others can make their own statistics."""
    row = Row(name="a", unit="puts/s", figure="rate")
    text = msgspec.json.encode(_report(7.0, row))
    assert msgspec.json.decode(text, type=Report).cases[0].samples == [{"rate": 7.0}]


def test_the_median_is_shown_with_its_range() -> None:
    """Middle, smallest and largest value of a series."""
    series = Series([3.0, 1.0, 2.0])
    assert (series.low, series.median, series.high) == (1.0, 2.0, 3.0)


def test_cases_are_listed_and_chosen_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``--list`` names the cases that ``--only`` leaves."""
    assert main(["--quick", "--list", "--only", "put-latency"]) == 0
    names = capsys.readouterr().out.split()
    assert names == [f"put-latency/{one}" for one in ("lmdb", "rocksdb", "memory")]

"""The benchmark of the transports between members runs and says what it promises."""

from __future__ import annotations

import asyncio

import pytest

from revstore_bench.peers import Figures, main, measure, median_of, render


@pytest.mark.parametrize("name", ["tcp", "grpc", "grpcio"])
def test_figures(name: str) -> None:
    """A tiny run has every figure, all positive."""
    figures = asyncio.run(measure(name, 500, 1_000_000))
    assert figures.transport == name
    assert figures.messages_per_s > 0
    assert figures.round_trip_us > 0
    assert figures.stream_mb_per_s > 0


def test_the_table() -> None:
    """Each figure is the median of its runs and stands beside its ratio."""
    runs = [
        Figures("tcp", 10.0, 5.0, 300.0),
        Figures("tcp", 30.0, 4.0, 100.0),
        Figures("tcp", 20.0, 9.0, 200.0),
    ]
    first = median_of(runs)
    assert first == Figures("tcp", 20.0, 5.0, 200.0)
    text = render([first, Figures("grpcio", 10.0, 10.0, 100.0)])
    assert "| tcp | 20 (1.00x) | 5 (1.00x) | 200 (1.00x) |" in text
    assert "| grpcio | 10 (0.50x) | 10 (2.00x) | 100 (0.50x) |" in text


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a row for each transport; sizes below one are refused."""
    arguments = ["--messages", "200", "--stream-mb", "1", "--runs", "1"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "| tcp |" in table
    assert "| grpcio |" in table
    with pytest.raises(SystemExit):
        main(["--runs", "0"])

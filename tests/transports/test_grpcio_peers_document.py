"""The page about members over gRPC says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from revstore.api.errors import Code
from revstore.interfaces.peers import QUESTION_BYTES_MAX, Lane
from revstore.peer.lanes import limits
from revstore.peer.lanes import wire as peer_wire
from revstore.peer.lanes.wire import REFUSALS, Hello, write_hello
from revstore_grpcio.limits import LIBRARY_RECEIVE_FACTOR

PAGE = Path(__file__).resolve().parents[2] / "docs" / "design" / "grpcio-peers.md"
FRAMES = (
    peer_wire.Messages,
    peer_wire.Part,
    peer_wire.Ping,
    peer_wire.Pong,
    peer_wire.Open,
    peer_wire.Finish,
    peer_wire.Credit,
    peer_wire.Accepted,
    peer_wire.Refused,
)


def rows(columns: int) -> list[list[str]]:
    """The cells of all table rows with so many columns."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("|")
    ]
    return [row for row in found if len(row) == columns]


def test_frames() -> None:
    """Every frame has its number and its count of elements in the table."""
    table = {row[1]: row for row in rows(5) if row[0].isdigit()}
    assert list(table) == [frame.__name__ for frame in FRAMES]
    for frame in FRAMES:
        number, _, elements, _, _ = table[frame.__name__]
        assert int(number) == frame.__struct_config__.tag
        count = len(elements.split(","))
        assert count == len(msgspec.structs.fields(frame)), frame


def test_metadata() -> None:
    """Every name of the metadata of a call is in the table, with its lanes."""
    table = {row[0].strip("`"): row[1] for row in rows(2) if row[0].startswith("`")}
    names = [name for name, _ in write_hello(Hello(1, 2, 3, Lane.LOG, 4))]
    assert list(table) == names
    assert table["revstore-protocol"] == f"`{peer_wire.PROTOCOL}`"
    for lane in Lane:
        assert f"{int(lane)} {lane.name}" in table["revstore-lane"]


def test_statuses() -> None:
    """Every status in the table is one, and those that refuse say so."""
    table = {row[0]: row[1] for row in rows(2) if row[0].isupper()}
    assert len(table) == 7
    for name, meaning in table.items():
        code = Code[name]
        assert (code in REFUSALS) == ("on_refused" in meaning), name


@pytest.mark.parametrize(
    "number",
    [
        limits.PEER_FRAME_BYTES_MAX,
        limits.PEER_PIECE_BYTES,
        limits.PEER_BATCH_BYTES_TARGET,
        limits.PEER_BATCH_MESSAGES_MAX,
        limits.PEER_CHUNK_COST_BYTES,
        limits.PEER_STREAMS_MAX,
        QUESTION_BYTES_MAX,
    ],
)
def test_numbers(number: int) -> None:
    """Every bound on the page is the one in use."""
    assert re.search(rf"\b{number}\b", PAGE.read_text()), number
    assert LIBRARY_RECEIVE_FACTOR == 4


@pytest.mark.parametrize(
    "path", [peer_wire.LANE_PATH, peer_wire.STREAM_PATH, peer_wire.ASK_PATH]
)
def test_paths(path: str) -> None:
    """Every call has its path on the page."""
    assert f"`{path}`" in PAGE.read_text()

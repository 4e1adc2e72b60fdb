"""The page about the framing says what the code does, byte for byte."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from revstore.api.errors import EMPTY_KEY
from revstore.interfaces.peers import Lane
from revstore.proto import rpc_pb2
from revstore_tcp import limits
from revstore_tcp.calls import DEADLINE_PASSED
from revstore_tcp.framing import (
    MAGIC,
    Flag,
    FrameReader,
    RecordType,
    frame,
    record,
    records_of,
)
from revstore_tcp.messages import (
    REPLY_OK,
    GoAway,
    Hello,
    Role,
    Welcome,
    read_end,
    write_end,
    write_hello,
    write_metadata,
    write_open,
    write_welcome,
)
from revstore_tcp.server import _NO_MESSAGE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "design" / "tcp-framing.md"


def text() -> str:
    """The page."""
    return PAGE.read_text()


def example(name: str) -> bytes:
    """The bytes of an example."""
    found = re.search(rf"```hex {name}\n(.*?)```", text(), re.DOTALL)
    assert found is not None, name
    lines = found[1].splitlines()
    for number, line in enumerate(lines):
        assert int(line[:4], 16) == 16 * number, line
    return bytes.fromhex("".join(line[6:] for line in lines))


def put_answer() -> bytes:
    """A PutResponse at revision 2."""
    answer = rpc_pb2.PutResponse()
    answer.header.revision = 2
    return answer.SerializeToString()


PUT = rpc_pb2.PutRequest(key=b"foo", value=b"bar").SerializeToString()
OPENING = write_open(b"/etcdserverpb.KV/Put", write_metadata({"token": "t"}), 5000, PUT)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "hello",
            MAGIC + frame(record(RecordType.HELLO, 0, write_hello(Hello(Role.CLIENT)))),
        ),
        ("open", frame(record(RecordType.OPEN, 1, OPENING, Flag.BODY))),
        (
            "welcome",
            frame(
                record(
                    RecordType.WELCOME,
                    0,
                    write_welcome(Welcome(message_bytes_max=2 * 1024 * 1024)),
                )
            ),
        ),
        ("end", frame(record(RecordType.END, 1, REPLY_OK + put_answer()))),
        ("error", frame(record(RecordType.END, 3, write_end(EMPTY_KEY)))),
    ],
)
def test_examples_are_what_the_code_writes(name: str, expected: bytes) -> None:
    """Each dump of the page is, byte for byte, what the code writes."""
    assert example(name) == expected


def test_examples_are_what_the_code_reads() -> None:
    """The server's side of the example reads as the page says."""
    reader = FrameReader()
    bodies = reader.feed(example("welcome") + example("end") + example("error"))
    (_, end, error) = (records_of(body)[0] for body in bodies)
    assert (end[0], end[2]) == (RecordType.END, 1)
    answer = read_end(end[3])
    assert isinstance(answer, bytes)
    assert rpc_pb2.PutResponse.FromString(answer).header.revision == 2
    assert read_end(error[3]) == EMPTY_KEY


@pytest.mark.parametrize("kind", [RecordType, Flag, GoAway, Lane])
def test_tables_have_every_number(kind: type[IntEnum]) -> None:
    """Each table lists the numbers and names of the code, all of them and no other."""
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", text(), re.MULTILINE)
    members = {(str(int(one)), one.name) for one in kind}
    assert members <= set(rows)
    known = {
        (str(int(one)), one.name)
        for each in (RecordType, Flag, GoAway, Lane)
        for one in each
    }
    assert set(rows) == known


def test_numbers_of_the_page() -> None:
    """The limits that the page states are those of the code."""
    page = text()
    for number, what in (
        (limits.FRAME_BODY_MAX, "of the body, 1 to {}"),
        (limits.RECORD_PAYLOAD_MAX, "of the payload, 0 to {}"),
        (limits.FRAME_BODY_TARGET, "closes it at {} bytes"),
        (limits.RECORD_PAYLOAD_MAX, "A payload of more than {} bytes"),
        (limits.HEAD_BYTES_MAX, "together are at most {} bytes"),
        (limits.STREAM_WINDOW, "in each direction, {} to begin with"),
        (limits.MESSAGE_COST, "costs its length and {}."),
        (int(limits.HANDSHAKE_TIMEOUT_S), "HELLO within {} seconds"),
        (limits.OUTPUT_BYTES_MAX // 1024**2, "when {} MiB of its answers"),
        (limits.PARTIAL_REQUESTS_MAX, "at most {} requests of the largest size"),
    ):
        assert what.format(number) in page
    assert limits.PING_STRIKES_MAX == 2, "the page says: at the third"
    assert MAGIC.hex(" ") in page


def test_texts_of_the_page() -> None:
    """The texts that the transport answers by itself are those of the page."""
    page = text()
    for error in (DEADLINE_PASSED, _NO_MESSAGE):
        assert f"| {error.code} | `{error.message}` |" in page

"""Header compression: against RFC 7541's examples and the library hpack."""

from __future__ import annotations

from collections.abc import Iterable

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore_http2.hpack import (
    Decoder,
    Encoder,
    HeaderListTooLargeError,
    Headers,
    HpackError,
    encode_plain,
)

Pairs = list[tuple[bytes, bytes]]

REQUEST: Pairs = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/etcdserverpb.KV/Put"),
    (b":authority", b"127.0.0.1:2379"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-go/1.26.0"),
    (b"te", b"trailers"),
]

NAMES = st.one_of(
    st.sampled_from(
        [b":path", b":status", b"content-type", b"te", b"token", b"grpc-timeout"]
    ),
    st.binary(min_size=1, max_size=12),
)
VALUES = st.one_of(
    st.sampled_from([b"", b"/", b"200", b"5S", b"4999875u", b"application/grpc"]),
    st.binary(max_size=40),
    st.integers(1, 400).map(lambda size: b"v" * size),
)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def reference_pairs(fields: Iterable[object]) -> Pairs:
    """What the library decoded, as plain pairs."""
    found: Pairs = []
    for field in fields:
        assert isinstance(field, tuple)
        found.append((bytes(field[0]), bytes(field[1])))
    return found


def pairs_of(decoder: Decoder, headers: Headers) -> Pairs:
    """All fields of the block read last, the one kept apart in its place."""
    return [
        (field.name, (decoder.apart or b"") if field.apart else field.value)
        for field in headers.fields
    ]


def one_deadline(pairs: Pairs) -> bool:
    """Whether no list has two deadlines, of which the later would count."""
    return sum(name == b"grpc-timeout" for name, _ in pairs) <= 1


@pytest.mark.parametrize(
    ("blocks", "table_size"),
    [
        (
            (
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ),
            4096,
        ),
        (
            (
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ),
            4096,
        ),
        (
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff"
                "6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                "4883640effc1c0bf",
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94"
                "e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003"
                "ed4ee5b1063d5007",
            ),
            256,
        ),
    ],
)
def test_examples_of_the_rfc(blocks: tuple[str, ...], table_size: int) -> None:
    """The examples of RFC 7541, appendices C.3, C.4 and C.6, read as the library does."""
    ours = Decoder(table_size)
    theirs = hpack.Decoder()
    theirs.max_allowed_table_size = table_size
    theirs.header_table_size = table_size
    for text in blocks:
        block = bytes.fromhex(text)
        expected = reference_pairs(theirs.decode(block, raw=True))
        assert pairs_of(ours, ours.decode(block)) == expected


@settings(deadline=None)
@given(st.lists(LISTS.filter(one_deadline), max_size=12), st.data())
def test_what_the_library_writes(lists: list[Pairs], data: st.DataObject) -> None:
    """Blocks of the library's encoder, with changes of the table, are read alike."""
    encoder, ours = hpack.Encoder(), Decoder()
    for pairs in lists:
        if data.draw(st.booleans()):
            encoder.header_table_size = data.draw(st.sampled_from([0, 60, 200, 4096]))
        sensitive = data.draw(st.booleans())
        fields = [(name, value, sensitive) for name, value in pairs]
        block = encoder.encode(fields, huffman=data.draw(st.booleans()))
        assert pairs_of(ours, ours.decode(block)) == pairs
        if block[:1] < b"\x20" or block[:1] >= b"\x40":
            theirs_size = len(ours._entries)
            assert theirs_size == len(encoder.header_table.dynamic_entries)


@settings(deadline=None)
@given(st.lists(LISTS.filter(one_deadline), max_size=12), st.data())
def test_what_the_library_reads(lists: list[Pairs], data: st.DataObject) -> None:
    """Blocks of our encoder, with changes of the table, are read alike by both."""
    ours, theirs = Decoder(), hpack.Decoder()
    encoder = Encoder(huffman_code=data.draw(st.booleans()))
    for pairs in lists:
        if data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(1, 2))):
                encoder.set_table_size(data.draw(st.sampled_from([0, 60, 200, 9999])))
        block = encoder.encode(pairs)
        assert reference_pairs(theirs.decode(block, raw=True)) == pairs
        assert pairs_of(ours, ours.decode(block)) == pairs


@settings(deadline=None)
@given(LISTS.filter(one_deadline))
def test_plain_blocks_need_no_state(pairs: Pairs) -> None:
    """A plain block reads the same on any connection and changes no table."""
    block = encode_plain(pairs)
    theirs, ours = hpack.Decoder(), Decoder()
    for _ in range(2):
        assert reference_pairs(theirs.decode(block, raw=True)) == pairs
        assert pairs_of(ours, ours.decode(block)) == pairs
    assert not theirs.header_table.dynamic_entries
    assert not ours._entries


def read_by_library(decoder: hpack.Decoder, block: bytes) -> Pairs | None:
    """The library's reading; None where it refuses."""
    try:
        return reference_pairs(decoder.decode(block, raw=True))
    except hpack.HPACKError:
        return None


@settings(max_examples=300, deadline=None)
@given(
    LISTS.filter(one_deadline), st.lists(st.binary(max_size=30), max_size=3), st.data()
)
def test_garbage(pairs: Pairs, garbage: list[bytes], data: st.DataObject) -> None:
    """Mutated blocks are read as the library reads them, or refused by the one error."""
    encoder, ours, theirs = hpack.Encoder(), Decoder(), hpack.Decoder()
    blocks = [encoder.encode(pairs), encoder.encode(pairs)]
    for extra in garbage:
        mutated = bytearray(encoder.encode(pairs))
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 3))] = extra
        blocks.append(bytes(mutated))
    for block in blocks:
        expected = read_by_library(theirs, block)
        try:
            headers = ours.decode(block)
        except HpackError:
            # The library takes integers and lists of any length.
            return
        if expected is None:
            # The library refuses a table that was not asked for to shrink; we do not.
            return
        if one_deadline(expected):
            assert pairs_of(ours, headers) == expected


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_alone(block: bytes) -> None:
    """Any bytes are read or refused by the one error."""
    decoder = Decoder()
    for _ in range(2):
        try:
            decoder.decode(block)
        except HpackError:
            return


BAD = {
    "index 0": "80",
    "an index behind the table": "be",
    "a long index behind the table": "ff00",
    "an integer that never ends": "ffffffffffffffffffff01",
    "a name index behind the table": "7e0161",
    "a string that is cut off": "00036162",
    "a length that is cut off": "00",
    "a value that is cut off": "0001610361",
    "a padding longer than seven bits": "00016182ff" + "ff",
    "a padding with a zero": "0001618100",
    "the end of a string inside it": "00016184" + "ffffffff",
    "a table larger than allowed": "3fe21f",
    "a resize behind a field": "8220",
    "a resize cut off": "3f",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_each_error(text: str) -> None:
    """Each way to break a block is refused (RFC 7541, sections 2.3.3, 4.2, 5, 6)."""
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(text))


def test_a_repeated_block_is_the_same_object() -> None:
    """A block repeated while nothing changed gives the very same headers."""
    encoder, decoder = Encoder(), Decoder()
    decoder.decode(encoder.encode(REQUEST))
    block = encoder.encode(REQUEST)
    first = decoder.decode(block)
    assert decoder.decode(block) is first
    assert block in decoder._blocks_now


def test_an_insertion_ends_what_depended_on_the_table() -> None:
    """The same bytes mean other fields after an insertion, and are read anew."""
    encoder, decoder = Encoder(), Decoder()
    decoder.decode(encoder.encode([(b"a", b"1")]))
    assert decoder.decode(b"\xbe").pairs() == [(b"a", b"1")]
    plain = encode_plain([(b"z", b"9")])
    remembered = decoder.decode(plain)
    decoder.decode(encoder.encode([(b"b", b"2")]))
    assert decoder.decode(b"\xbe").pairs() == [(b"b", b"2")]
    assert decoder.decode(b"\xbf").pairs() == [(b"a", b"1")]
    assert plain in decoder._blocks_stable
    assert decoder.decode(plain) is remembered


def test_a_resize_ends_what_depended_on_the_table() -> None:
    """A table made empty makes a remembered block an error."""
    encoder, decoder = Encoder(), Decoder()
    decoder.decode(encoder.encode([(b"a", b"1")]))
    decoder.decode(b"\xbe")
    decoder.decode(b"\x20")
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe")


@pytest.mark.parametrize("continued", [b"\x00", b"\x80\x00"])
def test_a_literal_named_by_the_table_depends_on_it(continued: bytes) -> None:
    """A literal whose name is a dynamic field is read anew after an insertion."""
    encoder, decoder = Encoder(), Decoder()
    decoder.decode(encoder.encode([(b"aaa", b"1")]))
    block = b"\x0f\x2f\x01x"  # 15 + 47: index 62
    assert decoder.decode(block).pairs() == [(b"aaa", b"x")]
    decoder.decode(encoder.encode([(b"bbb", b"2")]))
    assert decoder.decode(block).pairs() == [(b"bbb", b"x")]
    padded = b"\x0f\x80" + continued + b"\x01x"  # 15 in a roundabout way
    assert decoder.decode(padded).pairs() == [(b"accept-charset", b"x")]


def test_lists_that_differ_in_the_deadline_are_one() -> None:
    """Calls that differ only in their deadline share their headers; it is apart."""
    encoder, decoder = hpack.Encoder(), Decoder()
    seen = set()
    for number in range(300):
        timeout = b"%du" % (4_999_000 + number)
        block = encoder.encode([*REQUEST, (b"grpc-timeout", timeout)])
        seen.add(decoder.decode(block))
        assert decoder.apart == timeout
    assert len(seen) == 1
    assert decoder.decode(encode_plain(REQUEST)).size > 0
    assert decoder.apart is None


CALLS: list[tuple[Pairs, Pairs]] = [
    (REQUEST, []),
    (REQUEST, [(b"client-api-version", b"3.6.0"), (b"hasleader", b"true")]),
    ([*REQUEST[:2], (b":path", b"/etcdserverpb.KV/Range"), *REQUEST[3:]], []),
    ([], []),
]
TIMEOUTS = st.one_of(
    st.integers(0, 99_999_999).map(lambda number: b"%du" % number),
    st.sampled_from([b"5S", b"", b"x" * 130]),
)


@settings(max_examples=200)
@given(
    st.sampled_from([4096, 600, 300, 90, 40, 0]),
    st.lists(st.tuples(st.sampled_from(CALLS[:1] * 8 + CALLS), TIMEOUTS), max_size=150),
    st.data(),
)
def test_calls_with_deadlines(
    table_size: int, calls: list[tuple[tuple[Pairs, Pairs], bytes]], data: st.DataObject
) -> None:
    """Long runs of calls with deadlines are read as the library reads them, at the end
    also a block with a byte changed."""
    encoder, ours, theirs = hpack.Encoder(), Decoder(), hpack.Decoder()
    encoder.header_table_size = table_size
    block = b""
    for (before, behind), timeout in calls:
        pairs = [*before, (b"grpc-timeout", timeout), *behind]
        block = encoder.encode(pairs)
        expected = reference_pairs(theirs.decode(block, raw=True))
        assert pairs_of(ours, ours.decode(block)) == expected == pairs
        assert len(ours._entries) == len(theirs.header_table.dynamic_entries)
    mutated = bytearray(block or b"\x82")
    mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(
        st.integers(0, 255)
    )
    twin, ours = hpack.Decoder(), Decoder()
    encoder = hpack.Encoder()
    encoder.header_table_size = table_size
    for (before, behind), timeout in calls[:-1]:
        block = encoder.encode([*before, (b"grpc-timeout", timeout), *behind])
        twin.decode(block, raw=True)
        ours.decode(block)
    expected_last = read_by_library(twin, bytes(mutated))
    try:
        headers = ours.decode(bytes(mutated))
    except HpackError:
        return
    if expected_last is not None and one_deadline(expected_last):
        assert pairs_of(ours, headers) == expected_last


def test_a_remembered_block_brings_its_deadline() -> None:
    """A repeated block with a deadline sets it again, another one's does not stay."""
    decoder = Decoder()
    with_deadline = encode_plain([*REQUEST, (b"grpc-timeout", b"5S")])
    without = encode_plain(REQUEST)
    for _ in range(2):
        decoder.decode(with_deadline)
        assert decoder.apart == b"5S"
        decoder.decode(without)
        assert decoder.apart is None


def test_a_large_list_is_refused_and_the_table_stays_in_step() -> None:
    """More fields than are taken refuse one block; the next is read as ever."""
    encoder, decoder = Encoder(), Decoder(header_list_max=1000)
    bomb = [(b"x", b"v" * 100)] * 10
    with pytest.raises(HeaderListTooLargeError, match="at most 1000"):
        decoder.decode(encoder.encode(bomb))
    with pytest.raises(HeaderListTooLargeError):
        decoder.decode(encode_plain([(b"grpc-timeout", b"9" * 2000)]))
    after = [(b"x", b"v" * 100), (b"y", b"w")]
    assert decoder.decode(encoder.encode(after)).pairs() == after


def test_an_indexed_bomb_costs_no_more_than_its_length() -> None:
    """Thousands of references to a large field are refused (RFC 7541, section 7)."""
    decoder = Decoder()
    decoder.decode(Encoder().encode([(b"x", b"v" * 400)]))
    with pytest.raises(HeaderListTooLargeError):
        decoder.decode(b"\xbe" * 16_000)
    assert not decoder._lists or len(decoder._lists) == 1


def test_what_is_remembered_is_bounded() -> None:
    """Blocks, lists and fields that never come again do not pile up."""
    decoder = Decoder()
    for number in range(2000):
        decoder.decode(encode_plain([(b"x", b"%d" % number)]))
        decoder.decode(Encoder().encode([(b"y", b"%d" % number)]))
        decoder.decode(b"\xbe\x0f\x2f\x01" + bytes((number % 250,)))
    assert len(decoder._blocks_stable) <= 64
    assert len(decoder._blocks_now) <= 64
    assert len(decoder._lists) <= 64
    assert len(decoder._literals) <= 128
    assert decoder._size <= 4096


def test_secrets_are_never_indexed() -> None:
    """A token is sent as a literal that no hop may index, and stays out of the table."""
    encoder = Encoder()
    fields = [(b"token", b"s3cret"), (b"grpc-timeout", b"5S"), (b"te", b"trailers")]
    block = encoder.encode(fields)
    assert block[0] == 0x10
    decoder = hpack.Decoder()
    decoded = list(decoder.decode(block, raw=True))
    assert isinstance(decoded[0], hpack.NeverIndexedHeaderTuple)
    assert list(decoder.header_table.dynamic_entries) == [(b"te", b"trailers")]


def test_a_table_shrunk_and_grown_between_blocks_is_told_twice() -> None:
    """The least size since the last block is told before the last one (section 4.2)."""
    encoder, decoder = Encoder(), hpack.Decoder()
    decoder.decode(encoder.encode(REQUEST))
    encoder.set_table_size(0)
    encoder.set_table_size(4096)
    block = encoder.encode(REQUEST)
    assert block.startswith(b"\x20\x3f\xe1\x1f")
    assert reference_pairs(decoder.decode(block, raw=True)) == REQUEST


def test_a_remembered_block_does_not_outlive_its_entries() -> None:
    """A block that named an entry is an error once the table was made too small."""
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe").pairs() == [(b"a", b"b")]
    decoder.decode(b"\x20")
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe")

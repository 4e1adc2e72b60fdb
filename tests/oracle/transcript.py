"""The recorded transcripts, and sessions that are written down in the same form.

The transcripts are not part of this repository; tests skip where they are absent. What
differs from run to run (ids, tokens, sizes, numbers that a server chooses) is replaced
by words on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from revstore.proto import rpc_pb2 as rpc
from tests.support.server import ServerProcess

FOLDER = Path(__file__).parents[3] / "shared" / "etcd" / "oracle-3.4.23"
CALL_S = 30.0
CUT_FROM = 340
"""Transcripts cut answers at 400 characters, ids included."""

needs_transcripts = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the recorded transcripts of etcd are not there"
)

PEER_URL = "http://127.0.0.1:23980"
RECORDED_AS: dict[str, Any] = {
    "name": "a",
    "initial_advertise_peer_urls": PEER_URL,
    "initial_cluster": f"a={PEER_URL}",
    "advertise_client_urls": "http://127.0.0.1:23979",
}
"""Flags that make a member the one of the transcripts, its ids included."""

SENTINEL = rpc.WatchRequest(
    create_request=rpc.WatchCreateRequest(key=b"sentinel", watch_id=424242)
)
SILENCE = "E:DEADLINE_EXCEEDED Stream removed (Deadline Exceeded)"

Deviations = Mapping[str, tuple[str, str]]
"""Label -> what revstore answers instead, and why."""


def read(name: str) -> list[tuple[str, str]]:
    """(label, outcome) of each line; a label's further lines belong to its outcome."""
    found: list[tuple[str, str]] = []
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith(" "):
            label, text = found.pop()
            found.append((label, f"{text}\n{plain(line)}".strip()))
            continue
        status, rest = line.split(maxsplit=1)
        label, _, text = rest.partition("|")
        outcome = "" if status == "W" else plain(f"{status} | {text.strip()}")
        found.append((label.strip(), outcome))
    return found


def plain(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"cluster_id: \d+ member_id: \d+", "CM", text)
    text = re.sub(r"\bID: [1-9]\d{16,}", "ID: CHOSEN", text)
    text = re.sub(r"leader: \d+", "leader: CHOSEN", text)
    text = re.sub(
        r"\b(dbSize|dbSizeInUse|raftIndex|raftAppliedIndex): \d+", r"\1: SOME", text
    )
    text = re.sub(r"n=\d+ sizes=\[\d+,", "n=SOME sizes=[SOME,", text)
    text = re.sub(r'token: "[A-Za-z]{16}\.\d+"', "token", text)
    text = re.sub(r'(?:keys: "[^"]*" ?)+', _sorted_keys, text)
    return re.sub(r"TTL: 9[0-9] ", "TTL: ALMOST 100 ", text).strip()


def _sorted_keys(match: re.Match[str]) -> str:
    return " ".join(sorted(re.findall(r'keys: "[^"]*"', match[0]))) + " "


class Session:
    """Calls to a server, each noted as a line."""

    def __init__(self, server: ServerProcess) -> None:
        self._channel = grpc.insecure_channel(
            server.address, options=[("grpc.max_send_message_length", -1)]
        )
        self.lines: list[tuple[str, str]] = []

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def ask(
        self,
        method: str,
        request: Message,
        response: Any,
        metadata: Mapping[str, str] = {},
    ) -> Any:
        """One unary call, ``KV/Range`` for instance. Raises: grpc.RpcError."""
        call: Any = self._channel.unary_unary(f"/etcdserverpb.{method}")
        pairs = tuple(metadata.items())
        answer = call(request.SerializeToString(), timeout=CALL_S, metadata=pairs)
        return response.FromString(answer)

    def call(self, label: str, method: str, request: Message) -> Any:
        """One unary call, noted; the answer or None."""
        response = getattr(rpc, type(request).__name__.replace("Request", "Response"))
        try:
            answer = self.ask(method, request, response)
        except grpc.RpcError as error:
            self.note(label, f"ERR | {error.code().name} | {error.details()}")
            return None
        self.note(label, f"OK | {' '.join(str(answer).split())}")
        return answer

    def note(self, label: str, text: str) -> None:
        """Keep a line."""
        self.lines.append((label, plain(text)))

    def keep_alive(self, label: str, lease: int) -> None:
        """One keep-alive stream with one request, noted."""
        call: Any = self._channel.stream_stream("/etcdserverpb.Lease/LeaseKeepAlive")
        request = rpc.LeaseKeepAliveRequest(ID=lease).SerializeToString()
        answers = [
            " ".join(str(rpc.LeaseKeepAliveResponse.FromString(answer)).split())
            for answer in call(iter([request]), timeout=CALL_S)
        ]
        self.note(label, f"OK | [{', '.join(answers)} ]")

    def snapshot(self, label: str) -> None:
        """A whole snapshot, noted by its form."""
        call: Any = self._channel.unary_stream("/etcdserverpb.Maintenance/Snapshot")
        parts = [
            rpc.SnapshotResponse.FromString(part) for part in call(b"", timeout=CALL_S)
        ]
        last, head = parts[-2:], parts[:2]
        form = (
            f"n={len(parts)} sizes={[len(part.blob) for part in last]} "
            f"rem={[part.remaining_bytes for part in last]} "
            f"hdr={[part.HasField('header') for part in head]}"
        )
        self.note(label, f"OK | {form}")

    def first_watch_answer(
        self, request: rpc.WatchRequest, metadata: Mapping[str, str]
    ) -> rpc.WatchResponse:
        """What a watch stream says first."""
        call: Any = self._channel.stream_stream("/etcdserverpb.Watch/Watch")
        sent = iter([request.SerializeToString()])
        stream = call(sent, timeout=CALL_S, metadata=tuple(metadata.items()))
        answer = rpc.WatchResponse.FromString(next(stream))
        stream.cancel()
        return answer

    def watch(self, label: str, requests: Sequence[Message], answers: int) -> None:
        """A watch stream, noted until it has said enough.

        Instead of waiting for a silent stream, one more watcher is asked for: if its
        answer comes first, nothing else would have come.
        """
        call: Any = self._channel.stream_stream("/etcdserverpb.Watch/Watch")
        sent = [request.SerializeToString() for request in (*requests, SENTINEL)]
        stream = call(iter(sent), timeout=CALL_S)
        said: list[str] = []
        for message in stream:
            response = rpc.WatchResponse.FromString(message)
            if response.watch_id == SENTINEL.create_request.watch_id:
                if len(said) < answers:
                    said.append(SILENCE)
                break
            said.append(" ".join(str(response).split()))
            if len(said) == answers:
                break
        stream.cancel()
        self.note(label, "\n".join(said))


def check(
    lines: Sequence[tuple[str, str]],
    recorded: Sequence[tuple[str, str]],
    deviations: Deviations,
) -> None:
    """Each line is the recorded one, but for the deviations, all of which show."""
    assert [label for label, _ in lines] == [label for label, _ in recorded]
    assert set(deviations) <= {label for label, _ in recorded}
    wrong = []
    for (label, got), (_, text) in zip(lines, recorded, strict=True):
        expected = deviations[label][0] if label in deviations else text
        if label in deviations:
            assert expected != text, f"{label}: no deviation"
        cut = label not in deviations and len(text) > CUT_FROM and "\n" not in text
        same = got.startswith(expected) if cut else got == expected
        if not same:
            wrong.append(f"{label}\n  expected: {expected}\n  got:      {got}")
    assert not wrong, "\n".join(wrong)

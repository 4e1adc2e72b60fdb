"""A member on an event loop: what it compares before it serves, and what is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from revstore.config import load_config, parse_flags
from revstore.errors import CorruptionError
from revstore.node.aio import AsyncNode
from revstore.node.corruption import Corruption
from revstore.node.server import _grouped, _listeners, _unused, member_settings
from revstore.node.settings import MemberSettings, PluginChoice
from revstore.plugin.manager import PluginManager


def settings(path: Path) -> MemberSettings:
    """A member alone that checks at its start."""
    return MemberSettings(
        data_dir=path,
        backend=PluginChoice("memory"),
        initial_corrupt_check=True,
    )


def test_a_member_alone_passes_the_check(tmp_path: Path) -> None:
    """There is nobody to differ from."""

    async def run() -> int:
        node = await AsyncNode.open(settings(tmp_path))
        await node.close()
        return node.replica.applied

    assert asyncio.run(run()) > 0


def test_a_member_that_differs_serves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening ends with the reason, and the directory is free again."""

    def differs(self: Corruption, done: Callable[[str], None]) -> None:
        done("it differs")

    with monkeypatch.context() as patch:
        patch.setattr(Corruption, "check_at_start", differs)
        with pytest.raises(CorruptionError, match="it differs"):
            asyncio.run(AsyncNode.open(settings(tmp_path)))
    test_a_member_alone_passes_the_check(tmp_path)


def test_features_switch_the_checks() -> None:
    """The names of etcd switch what they say; one without an effect is named."""
    flags = [
        "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true,AllBeta=true",
        "--corrupt-check-time=1m",
        "--compact-hash-check-time=30s",
    ]
    loaded = load_config(parse_flags(flags), {}, None)
    found = member_settings(loaded)
    assert found.initial_corrupt_check
    assert (found.corrupt_check_s, found.compact_hash_check_s) == (60.0, 30.0)
    assert not found.lease_checkpoints
    assert not any("gates" in line or "check" in line for line in _unused(loaded))
    loaded = load_config(parse_flags([]), {}, None)
    found = member_settings(loaded)
    assert (found.corrupt_check_s, found.compact_hash_check_s) == (0.0, 0.0)
    flags = ["--feature-gates=AllAlpha=true,PriorityRequest=true"]
    loaded = load_config(parse_flags(flags), {}, None)
    assert member_settings(loaded).lease_checkpoints
    assert "feature-gates: PriorityRequest has no effect" in _unused(loaded)


def test_only_settings_without_an_effect_are_said_to_have_none() -> None:
    """A size of batches was obeyed, and said to have no effect."""
    flags = ["--backend-batch-limit=77", "--cors=example.org"]
    loaded = load_config(parse_flags(flags), {}, None)
    assert member_settings(loaded).flush_events == 77
    assert _unused(loaded) == ["cors has no effect"]


@pytest.mark.parametrize(
    ("transport", "urls", "grouped"),
    [
        ("grpc", "http://127.0.0.1:2379", True),
        ("grpc", "http://127.0.0.1:2379,tcp://127.0.0.1:2381", True),
        ("tcp", "tcp://127.0.0.1:2379", True),
        ("grpcio", "http://127.0.0.1:2379", False),
        ("grpcio", "http://127.0.0.1:2379,tcp://127.0.0.1:2381", False),
    ],
)
def test_one_transport_that_does_not_group_calls_is_enough(
    transport: str, urls: str, grouped: bool
) -> None:
    """The log is synced on the loop only where every transport groups its calls."""
    flags = [f"--transport={transport}", f"--listen-client-urls={urls}"]
    flags.append("--advertise-client-urls=http://127.0.0.1:2379")
    loaded = load_config(parse_flags(flags))
    assert _grouped(_listeners(loaded, PluginManager())) is grouped

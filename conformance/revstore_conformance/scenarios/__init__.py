"""Replays transcripts of Raft scenarios, in the dialect of etcd's raft tests.

``python -m revstore_conformance.scenarios PATH...`` replays files; a folder means
every ``.txt`` file below it. ``docs/design/raft-scenarios.md`` describes the dialect.
"""

from __future__ import annotations

from revstore_conformance.scenarios.replay import Failure, find_files, replay, rewrite

__all__ = ["Failure", "find_files", "replay", "rewrite"]

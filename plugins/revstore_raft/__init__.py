"""Raft consensus, the plugin "raft"."""

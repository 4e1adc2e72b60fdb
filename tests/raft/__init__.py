"""Tests of the Raft plugin."""

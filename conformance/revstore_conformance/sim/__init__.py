"""Whole clusters in one process on a virtual clock; see docs/testing.md."""

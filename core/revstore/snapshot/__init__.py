"""Snapshots between members: their format, reading, receiving and installing."""

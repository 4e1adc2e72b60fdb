"""Snapshots between members: format, inbox, installation, streams."""

"""Requests that no well-behaved client sends, against a real server process."""

"""Recorded answers of a real etcd, asserted line by line against a real server."""

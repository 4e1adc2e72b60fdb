"""Clusters of real processes on real sockets."""

"""Benchmarks of revstore and its backends."""

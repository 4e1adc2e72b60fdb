"""The multi-version store over any backend."""

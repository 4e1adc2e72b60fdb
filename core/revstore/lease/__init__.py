"""Leases: what is replicated, and when they expire."""

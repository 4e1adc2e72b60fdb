"""Consensus of one member, the plugin "solo"."""

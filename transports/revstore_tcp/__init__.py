"""The transport "tcp": a compact framing of its own, for clients and between members."""

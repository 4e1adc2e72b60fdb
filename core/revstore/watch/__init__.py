"""Watches: one hub that serves every stream."""

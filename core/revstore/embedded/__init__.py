"""revstore as a library: the same member, driven in the caller's thread."""

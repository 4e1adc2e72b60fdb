"""revstore as a library."""

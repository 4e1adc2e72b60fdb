"""The backend "lmdb": a B+tree."""

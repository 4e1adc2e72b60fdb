"""The backend "memory": sorted, volatile; the reference."""

"""The client: its machines on a virtual clock, its shell over fakes, and real servers."""

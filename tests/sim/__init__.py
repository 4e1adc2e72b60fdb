"""The simulator: short runs, its own checkers, and its mutants."""

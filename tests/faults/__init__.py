"""Faults on clusters of real processes, under load, with everything checked."""

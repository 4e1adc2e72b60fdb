"""The benchmarks run and report; what they measure is nobody's business here."""

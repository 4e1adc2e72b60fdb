"""The conformance suite for plugin authors."""

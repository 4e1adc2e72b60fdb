"""The style, kept by the machine."""

"""The replica and the shells that drive it."""

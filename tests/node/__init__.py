"""The replica and the shells around it."""

"""Programs that run with the python of another environment."""

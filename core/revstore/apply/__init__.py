"""What a committed log entry does to the store."""

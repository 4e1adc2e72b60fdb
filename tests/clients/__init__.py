"""Real clients against a real server, and against a real etcd beside it."""

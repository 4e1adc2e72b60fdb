"""revstore: an etcd-compatible, revisioned key-value store made of plugins."""

"""The etcd v3 services, independent of any transport."""

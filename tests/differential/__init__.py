"""revstore beside a real etcd: the same requests, the same answers."""

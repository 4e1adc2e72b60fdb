"""The transport "grpcio": the etcd v3 API on grpcio."""

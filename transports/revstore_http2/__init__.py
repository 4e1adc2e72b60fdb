"""HTTP/2 and gRPC as a machine: bytes in, events and bytes out; no sockets, no loop."""

"""The links between members that run in calls of gRPC: what is the same however the
calls are made. docs/design/grpcio-peers.md has the protocol."""

"""The transport "grpc": gRPC on asyncio over the machine of revstore_http2."""

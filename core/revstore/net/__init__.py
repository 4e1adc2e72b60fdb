"""What transports on sockets share: addresses, listening, certificates."""

"""What members say to one another: message bytes, and a transport in memory."""

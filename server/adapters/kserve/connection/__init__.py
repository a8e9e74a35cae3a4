"""Which API server, and as whom."""

"""The API server's address, TLS, proxy and credentials."""

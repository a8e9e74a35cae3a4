"""The listeners of the gRPC servers: their addresses, and the certificate of TLS."""

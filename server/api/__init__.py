"""gRPC: the servicers, the conversion of messages, and the mapping of errors to statuses."""

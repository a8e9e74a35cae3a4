"""ModelService: the gRPC front door of a KServe platform."""

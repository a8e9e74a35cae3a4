"""ModelService: the gRPC front door of a KServe platform."""

__version__ = "0.1.0"

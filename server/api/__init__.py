"""The gRPC face: servicers, conversion between proto and domain, the one error table."""

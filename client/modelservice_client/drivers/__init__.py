"""Carry out the steps of routines on a gRPC channel, in threads and in asyncio."""

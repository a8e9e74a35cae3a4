"""A cluster in memory, for tests and for benchmarks of the layers above."""

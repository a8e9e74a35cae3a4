"""The server beside what it stands on, measured in one run: `python -m tests.benchmarks`."""

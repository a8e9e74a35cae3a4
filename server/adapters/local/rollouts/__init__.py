"""Rollouts: the generations of a service and their model servers."""

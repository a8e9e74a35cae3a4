"""Derive the status of a service from its objects on the cluster."""

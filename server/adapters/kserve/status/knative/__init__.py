"""Derive the facts of services that KServe runs with Knative."""

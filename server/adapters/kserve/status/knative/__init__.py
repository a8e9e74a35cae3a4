"""The status of services that KServe runs with Knative."""

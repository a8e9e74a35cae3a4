"""KServe on Kubernetes: manifests, server-side apply, informers, status."""

"""KServe on Kubernetes: manifests, server-side apply, reflectors, status reading."""

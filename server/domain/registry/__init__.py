"""The model registry: registered models, versions, environments and deployments."""

"""The registry: models, versions, environments, and the records of their deployments."""

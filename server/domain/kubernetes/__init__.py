"""The rules of Kubernetes for names, quantities and selectors."""

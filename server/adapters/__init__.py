"""The adapters: clusters and the registry, one package each."""

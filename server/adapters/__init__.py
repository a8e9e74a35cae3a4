"""The clusters behind the port, one package each."""

"""Callers' identities and rights, by reviews of the API server."""

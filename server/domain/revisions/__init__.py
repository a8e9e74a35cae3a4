"""The revisions of a service."""

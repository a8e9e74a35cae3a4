"""The revisions of services, kept as ControllerRevisions."""

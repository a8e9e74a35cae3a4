"""The operations behind the RPCs, and the tasks that keep the watch cache and the records."""

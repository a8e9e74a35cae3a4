"""One generation of a service, from its start to its end."""

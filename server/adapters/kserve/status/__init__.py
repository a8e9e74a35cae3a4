"""What the cluster shows of a service: facts, causes, staleness."""

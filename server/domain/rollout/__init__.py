"""A rollout: the facts of it, its state, and the reasons of its failure."""

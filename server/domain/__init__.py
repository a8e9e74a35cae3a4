"""What ModelService talks about: services, their status, their rollouts. Standard library only."""

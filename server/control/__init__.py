"""What ModelService does: deploying, deleting, viewing, watching."""

"""Model files, from wherever they are."""

"""Deploy and Delete on the API server: planned on what is there, applied onto exactly that."""

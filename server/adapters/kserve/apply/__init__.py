"""Deploy and Delete on the API server: plan on the object that is there, and write only onto it."""

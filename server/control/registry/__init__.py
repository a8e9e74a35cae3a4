"""Models, versions and environments by name, and the records of what was deployed from them."""

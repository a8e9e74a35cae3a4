"""Which model server serves which model, and how it is started."""

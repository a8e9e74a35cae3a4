"""The copy of the cluster that is kept current, and the feed of statuses made from it."""

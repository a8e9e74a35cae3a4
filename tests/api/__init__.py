"""The contract, through a stub on a channel to the real application over a cluster in memory."""

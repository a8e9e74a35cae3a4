"""Addresses: ports, and what answers on them."""

"""Decide what a client sends, when it sends it again, and what it shows, without any I/O.

A routine is a generator: it yields steps (steps.py), a driver carries each one out and sends the
result back, or throws a ModelServiceError. Client and AsyncClient are such drivers and add nothing,
so that the two cannot differ. Time and random numbers are handed in.
"""

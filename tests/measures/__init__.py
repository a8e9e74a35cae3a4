"""How large the code is, and how many calls a request takes: `make sizes`, `make walks`."""

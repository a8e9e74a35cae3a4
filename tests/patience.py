"""How long tests wait for what must come: a bound, many times what it takes.

Other tests and other programs share the machine, which makes anything ten times as slow.
"""

PATIENCE_SECONDS = 100.0

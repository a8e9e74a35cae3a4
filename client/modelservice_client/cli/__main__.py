"""Run modelctl as `python -m modelservice_client.cli`."""

from modelservice_client.cli import main

main()

"""modelctl, the command line of ModelService: see docs/modelctl.md."""

import sys
from io import TextIOWrapper


def main() -> None:
    """Run modelctl. Its packages come with the extra `cli`."""
    try:
        from modelservice_client.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "yaml"):
            raise
        sys.exit("modelctl needs more packages: pip install 'modelservice-client[cli]'")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="modelctl")

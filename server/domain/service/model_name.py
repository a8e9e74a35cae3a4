"""The name of the model inside its model server, if the spec sets one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

ARGUMENT = "--model_name"
VARIABLE = "MLSERVER_MODEL_NAME"


def names_in_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the names set by arguments, in order; servers use the last."""
    for argument, following in pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        if flag == ARGUMENT:
            yield value if equals else following


def model_name(service: str, env: Mapping[str, str], arguments: Sequence[str]) -> str:
    """Return the model's name: from the arguments, else the variables, else the service's name."""
    return [env.get(VARIABLE, service), *names_in_arguments(arguments)][-1]

"""The name under which a model server has its model, where a spec gives one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

ARGUMENT = "--model_name"
VARIABLE = "MLSERVER_MODEL_NAME"


def names_in_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """The names that arguments give, in their order; servers take the last."""
    for argument, following in pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        if flag == ARGUMENT:
            yield value if equals else following


def model_name(service: str, env: Mapping[str, str], arguments: Sequence[str]) -> str:
    """The model's name in a service: of its arguments, else of its variables, else its own."""
    return [env.get(VARIABLE, service), *names_in_arguments(arguments)][-1]

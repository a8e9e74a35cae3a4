"""Which name a model server has its model under."""

from __future__ import annotations

import pytest

from server.domain.service.model_name import model_name


@pytest.mark.parametrize(
    ("env", "arguments", "name"),
    [
        ({}, (), "iris"),
        ({"MLSERVER_MODEL_NAME": "lily"}, (), "lily"),
        ({"MLSERVER_MODEL_NAME": "lily"}, ("--model_name", "rose"), "rose"),
        ({}, ("--model_name=lily", "--model_name", "rose", "--debug"), "rose"),
    ],
)
def test_arguments_come_before_variables_and_these_before_the_services_name(
    env: dict[str, str], arguments: tuple[str, ...], name: str
) -> None:
    assert model_name("iris", env, arguments) == name

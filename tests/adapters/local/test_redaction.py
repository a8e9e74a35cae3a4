"""What a model server prints of its environment is shown without the secrets in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from server.domain.rollout.status import State
from tests.adapters.local.world import World


async def shown(world: World, prints: str, env: Mapping[str, str] | None = None) -> str:
    """All that is told of a failure whose server prints this."""
    spec = replace(world.model(exit=1, says=f"Error: printed {prints} so"), env=env or {})
    await world.deploy(spec)
    failure = (await world.until(State.FAILED)).status.failure
    assert failure
    assert any("printed *** so" in line for line in failure.log_lines), failure.log_lines
    return repr(failure)


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [("pre-$(ID)", "pre-sesame"), ("sesame$$1", "sesame$1"), ("$(PIN_SECRET)", "seventeen")],
)
async def test_a_value_is_hidden_as_the_server_has_it(
    world: World, given: str, handed_on: str
) -> None:
    env = {"ID": "sesame", "A_PIN": "x", "PIN_SECRET": "seventeen", "THE_TOKEN": given}
    assert handed_on not in await shown(world, handed_on, env)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "hf_sesame", "hf_sesame"),
        ("HTTPS_PROXY", "http://me:sesame%21@proxy.invalid:3128", "sesame%21"),
        ("https_proxy", "http://me:sesame%21@proxy.invalid:3128", "sesame!"),
        ("http_proxy", "me:sesame@proxy.invalid:3128", "sesame"),
    ],
)
async def test_what_this_server_hands_on_of_its_own_is_hidden_too(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, value: str, secret: str
) -> None:
    monkeypatch.setenv(name, value)
    assert secret not in await shown(world, secret)

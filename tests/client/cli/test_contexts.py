"""Which server a command reaches: flags, then the environment, then the context."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest
from modelservice_client.cli.connection import Connection
from modelservice_client.cli.contexts import ConfigError, config_path, load

from .running import modelctl

STAGING = ["--server", "staging:1", "--token-file", "staging.token", "-n", "models", "--tls"]


@pytest.fixture
def staging() -> None:
    assert modelctl("config", "set", "staging", *STAGING).exit_code == 0


@pytest.mark.usefixtures("staging")
@pytest.mark.parametrize(
    ("flags", "variable", "server", "has_token"),
    [
        ({}, "", "staging:1", True),
        ({"context": "staging"}, "other:1", "staging:1", True),
        ({"context": "staging", "server": "near:1"}, "", "near:1", True),
        ({}, "other:1", "other:1", False),
        ({"server": "other:2"}, "other:1", "other:2", False),
    ],
)
def test_another_server_than_the_contexts_gets_nothing_of_the_context(
    flags: dict[str, str],
    variable: str,
    server: str,
    has_token: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODELSERVICE_SERVER", variable)
    found = Connection(**flags).resolved()
    assert found.server == server
    assert bool(found.token_file) is has_token
    assert found.namespace == ("models" if has_token else "")


def test_the_first_context_is_current_until_another_one_is_used() -> None:
    assert modelctl("config", "set", "a", "--server", "a:1").exit_code == 0
    assert modelctl("config", "set", "b", "--server", "b:1", "-n", "of-b").exit_code == 0
    assert load().current == "a"
    assert modelctl("config", "use", "b").exit_code == 0
    assert modelctl("config", "show").stdout.split() == [
        *("NAME", "NAMESPACE", "SERVER"),
        *("a", "a:1"),
        *("*", "b", "of-b", "b:1"),
    ]
    assert modelctl("config", "remove", "b").exit_code == 0
    assert (load().current, list(load().contexts)) == ("", ["a"])


@pytest.mark.usefixtures("staging")
def test_a_change_keeps_what_it_does_not_name_and_an_empty_value_unsets() -> None:
    assert modelctl("config", "set", "staging", "--namespace", "").exit_code == 0
    context = load().context()
    assert (context.server, context.namespace, context.plaintext) == ("staging:1", "", False)
    assert Path(context.token_file) == Path("staging.token").absolute()


@pytest.mark.usefixtures("staging")
def test_only_its_owner_can_read_the_file() -> None:
    assert stat.S_IMODE(config_path().stat().st_mode) == 0o600


def test_a_file_behind_a_symbolic_link_is_written_and_the_link_stays(tmp_path: Path) -> None:
    there = tmp_path / "dotfiles.yaml"
    there.write_text("")
    config_path().parent.mkdir(parents=True)
    config_path().symlink_to(there)
    assert modelctl("config", "set", "a", "--server", "a:1").exit_code == 0
    assert config_path().is_symlink()
    assert "a:1" in there.read_text()


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def replace(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", replace)
    run = modelctl("config", "set", "a", "--server", "a:1")
    assert run.exit_code == 2
    assert f"{config_path()}: No space left on device" in run.stderr
    assert list(config_path().parent.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("contexts: [", "config.yaml: "),
        ("[]", "must be an object"),
        ("currant: a", "has no field currant. Its fields: contexts, current"),
        ("contexts: {a: {sever: b}}", "contexts.a: has no field sever"),
        ("contexts: {a: {plaintext: 1}}", "contexts.a.plaintext: must be true or false"),
        ("contexts: {a: {server: 1}}", "contexts.a.server: must be a string"),
        ("current: 2030-13-45", "month must be"),
        ("contexts: {a: {ca: ~nobody-here/ca.pem}}", "contexts.a.ca: ~nobody-here/ca.pem: no home"),
        ("current: gone", "there is no context gone; there is none"),
    ],
)
def test_a_wrong_file_ends_with_2_and_its_name(text: str, error: str) -> None:
    config_path().parent.mkdir(parents=True)
    config_path().write_text(text)
    run = modelctl("list")
    assert run.exit_code == 2
    assert str(config_path()) in run.stderr
    assert error in run.stderr


def test_a_path_in_the_file_is_looked_for_beside_it() -> None:
    config_path().parent.mkdir(parents=True)
    config_path().write_text("current: a\ncontexts: {a: {server: 'a:1', ca: ca.pem}}")
    assert load().context().ca == str(config_path().parent / "ca.pem")


def test_a_base_directory_that_is_not_absolute_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert config_path() == Path.home() / ".config/modelctl/config.yaml"
    with pytest.raises(ConfigError):
        load().context("gone")


def test_a_user_without_a_home_directory_reads_how_to_name_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    run = modelctl("list")
    assert run.exit_code == 2
    assert "set HOME" in run.stderr
    assert modelctl("list", "--server", "127.0.0.1:9", "--patience", "0").exit_code == 1


def test_without_a_server_the_command_says_how_to_name_one() -> None:
    run = modelctl("list")
    assert run.exit_code == 2
    assert "give --server host:port, set MODELSERVICE_SERVER" in run.stderr

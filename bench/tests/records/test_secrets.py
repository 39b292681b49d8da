"""Secrets in the environment and on the command line: never in a record."""

from __future__ import annotations

import pytest

from bench import catalogue
from bench.records import environment
from bench.records.environment import NOT_RECORDED, redacted, without_secrets
from bench.running.header import command_line

SECRETS = (
    "HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "my_password",
    "DB_PASSWD",
    "PASSPHRASE",
    "OPENAI_API_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "BASIC_AUTH",
)


def test_no_variable_of_the_allow_list_looks_like_a_secret() -> None:
    """Its value would be lost."""
    names = set(environment.VARIABLES)
    for name in catalogue.plug_ins("backends"):
        backend = catalogue.backend(name)
        names |= {*backend.recorded_variables(), *backend.worker_environment()}
        names |= set(backend.harmful_variables())
    assert names and not [name for name in names if environment.SECRET.search(name)]


def test_what_is_not_on_the_list_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, "HOME", "USER", "UNASKED"):
        monkeypatch.setenv(name, "planted")
    assert "planted" not in str(environment.variables(environment.VARIABLES))


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_was_asked_for_keeps_no_value(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "planted")
    assert environment.variables([name]) == {name: NOT_RECORDED}
    assert redacted(f"{name}=planted") == f"{name}={NOT_RECORDED}"
    assert redacted(f"--env={name}=plan=ted\nplanted") == f"--env={name}={NOT_RECORDED}"
    assert without_secrets("it said planted!") == f"it said {NOT_RECORDED}!"


def test_other_words_of_a_command_line_are_kept() -> None:
    typed = ["ab", "some/where/quick.toml", "--env", "A=1", "--env=B=x/y", "--only", "key-*"]
    kept = ["accelmark", "ab", "quick.toml", "--env", "A=1", "--env=B=y", "--only", "key-*"]
    assert command_line("accelmark", typed) == kept


def test_a_short_secret_does_not_eat_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "a")
    monkeypatch.setenv("OTHER_KEY", "")
    assert without_secrets("a plain text") == "a plain text"

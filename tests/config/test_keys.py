"""Where secrets come from, and that no message shows one."""

from __future__ import annotations

import pytest

from arbstr.config import Config, ConfigError, ProviderConfig, convention_variable, loads

PROVIDER = '[[providers]]\nname = "my-svc x"\nurl = "mock://x"\ninput_rate = 0\noutput_rate = 0\n'


def read(text: str, **environ: str) -> Config:
    return loads(text, source="c.toml", environ=environ)


def provider(text: str, **environ: str) -> ProviderConfig:
    return read(PROVIDER + text, **environ).providers[0]


def revealed(made: ProviderConfig) -> str | None:
    return made.api_key and made.api_key.reveal()


def test_every_reference_is_replaced_when_a_key_holds_several() -> None:
    made = provider('api_key = "x-${A}-${B}${A}"', A="1", B="${A}")
    assert revealed(made) == "x-1-${A}1"
    assert made.key_source == "env-expanded"


@pytest.mark.parametrize("literal", ["$A", "plain", "a}b", "{A}", "", "$"])
def test_key_is_literal_when_it_holds_no_reference(literal: str) -> None:
    made = provider(f'api_key = "{literal}"', A="1", ARBSTR_MY_SVC_X_API_KEY="unused")
    assert revealed(made) == literal
    assert made.key_source == "config-literal"


def test_convention_variable_is_used_when_the_file_has_no_key() -> None:
    made = provider("", ARBSTR_MY_SVC_X_API_KEY="k")
    assert (revealed(made), made.key_source) == ("k", "convention")
    assert revealed(provider("", ARBSTR_MY_SVC_X_API_KEY="")) == ""
    assert convention_variable("a.b-c d") == "ARBSTR_A.B_C_D_API_KEY"


def test_there_is_no_key_when_neither_file_nor_environment_has_one() -> None:
    made = provider("")
    assert (made.api_key, made.key_source) == (None, "none")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("${UNSET}", ["Environment variable UNSET is not set"]),
        ("a${", ["<unclosed>", "Unclosed ${ "]),
        ("${A", ["<unclosed>", "Unclosed ${A "]),
        ("${}", ["Empty variable name"]),
    ],
)
def test_variable_and_provider_are_named_when_a_reference_fails(key: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        provider(f'api_key = "{key}"', A="1")
    (found,) = caught.value.problems
    assert found.line == 6
    assert found.message.startswith('provider "my-svc x": ')
    for word in words:
        assert word in found.message


def test_every_failing_reference_is_reported_when_there_are_several() -> None:
    with pytest.raises(ConfigError) as caught:
        provider('api_key = "${ONE}${TWO}${}"')
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("key", ["auth_token", "admin_token"])
def test_tokens_of_the_server_are_expanded_and_refused_when_empty(key: str) -> None:
    config = read(f'[server]\n{key} = "${{T}}"', T="secret")
    assert getattr(config.server, key).reveal() == "secret"
    with pytest.raises(ConfigError, match=f"server.{key}: is empty"):
        read(f'[server]\n{key} = "${{T}}"', T="")
    with pytest.raises(ConfigError, match=f"server.{key}: Environment variable T"):
        read(f'[server]\n{key} = "${{T}}"')


@pytest.mark.parametrize("value", ["hunter2\n", " hunter2", "hunter2\x00", "hunter2é", "a\r\nx: hunter2"])
def test_secret_is_refused_but_not_shown_when_no_header_can_carry_it(value: str) -> None:
    for text, environ in [('api_key = "${K}"', {"K": value}), ("", {"ARBSTR_MY_SVC_X_API_KEY": value})]:
        with pytest.raises(ConfigError, match="value not shown") as caught:
            provider(text, **environ)
        assert "hunter2" not in str(caught.value)


def test_secret_is_not_shown_when_it_has_the_wrong_type() -> None:
    with pytest.raises(ConfigError, match="value not shown") as caught:
        provider("api_key = 12345678")
    assert "12345678" not in str(caught.value)


def test_configuration_shows_no_secret_when_printed() -> None:
    config = read('[server]\nauth_token = "hunter2hunter2"\n' + PROVIDER + 'api_key = "hunter2hunter2"')
    assert "hunter2" not in repr(config)


def test_proxy_is_a_secret_whose_references_are_replaced() -> None:
    made = provider('proxy = "http://me:${P}@proxy.example:3128"', P="pass")
    assert made.proxy is not None
    assert made.proxy.reveal() == "http://me:pass@proxy.example:3128"
    assert "pass" not in repr(made)
    assert provider("").proxy is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy.example:3128",
        "socks5://me:pass@proxy.example",
        "http://",
        "http://me:pass@proxy.example:port",
        "http://me:pass@proxy.example/path",
        "http://me:pass@proxy.example/?query",
        "http://me:pa ss@proxy.example",
        "http://me:pässword@proxy.example",
    ],
)
def test_proxy_is_refused_without_its_password_when_it_is_no_url_of_one(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL of an HTTP proxy") as caught:
        provider(f'proxy = "{url}"')
    assert "me:" not in str(caught.value)

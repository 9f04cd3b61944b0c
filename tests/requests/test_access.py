from __future__ import annotations

import pytest

from arbstr.accounts import Holder
from arbstr.config import ServerConfig
from arbstr.errors import AuthenticationFailed
from arbstr.requests import Authenticator, Caller
from arbstr.secrets import Secret

AGENT = Caller("ag_1", "agent", "one")
CLIENT = Caller(None, "client", "client")
ANYONE = Caller(None, "anonymous", "anonymous", client="peer 192.0.2.1")
ADMIN = Caller(None, "admin", "admin")
DEMO = Caller("ag_demo", "agent", "demo")


class Book:
    """Stands in for the accounts: one agent, whose token is ``vtk_one``."""

    def holder_of(self, token: str) -> Holder | None:
        if token == "vtk_maybe":
            return Holder("tok_1", "tok_1", token=Secret(token), proven=False)
        return Holder("ag_1", "one") if token == "vtk_one" else None


def authenticator(
    *, accounts: bool = False, auth_token: str | None = None, admin_token: str | None = None, demo: bool = False
) -> Authenticator:
    server = ServerConfig(
        auth_token=Secret(auth_token) if auth_token else None, admin_token=Secret(admin_token) if admin_token else None
    )
    return Authenticator(server, Book() if accounts else None, DEMO if demo else None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ("Bearer vtk_one", AGENT),
        ("Bearer boss", ADMIN),
        ("Bearer tok", None),  # an auth_token guards a proxy without accounts
        ("Bearer vtk_two", None),
        ("Bearer ", None),
        (None, None),
    ],
)
def test_agents_and_the_admin_get_in_when_accounts_are_on(authorization: str | None, expected: Caller | None) -> None:
    authenticate = authenticator(accounts=True, auth_token="tok", admin_token="boss")
    if expected is None:
        with pytest.raises(AuthenticationFailed) as caught:
            authenticate(authorization, "127.0.0.1", True)
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    else:
        assert authenticate(authorization, "127.0.0.1", True) == expected


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [("Bearer tok", CLIENT), ("Bearer boss", ADMIN), ("Bearer other", None), ("Bearer vtk_one", None), (None, None)],
)
def test_the_auth_token_is_asked_for_when_there_are_no_accounts(
    authorization: str | None, expected: Caller | None
) -> None:
    authenticate = authenticator(auth_token="tok", admin_token="boss")
    if expected is None:
        with pytest.raises(AuthenticationFailed):
            authenticate(authorization, "127.0.0.1", True)
    else:
        assert authenticate(authorization, "127.0.0.1", True) == expected


@pytest.mark.parametrize("authorization", [None, "", "Bearer anything", "Basic x", "Bearer "])
def test_anybody_gets_in_when_nothing_guards_the_proxy(authorization: str | None) -> None:
    assert authenticator()(authorization, "192.0.2.1", False) == ANYONE
    assert authenticator(admin_token="boss")(authorization, "192.0.2.1", False) == ANYONE


def test_the_admin_is_known_when_nothing_else_guards_the_proxy() -> None:
    assert authenticator(admin_token="boss")("Bearer boss", "192.0.2.1", False) == ADMIN


@pytest.mark.parametrize(
    "authorization",
    ["bearer tok", "BEARER tok", "Bearer  tok", "Bearer\ttok", "Bearertok", " Bearer tok", "Bearer tok ", "Basic tok"],
)
def test_a_token_is_refused_when_its_scheme_is_not_exactly_bearer_and_one_space(authorization: str) -> None:
    with pytest.raises(AuthenticationFailed):
        authenticator(auth_token="tok")(authorization, "127.0.0.1", True)


def test_the_message_says_what_to_send_when_no_bearer_came() -> None:
    with pytest.raises(AuthenticationFailed, match="Authorization: Bearer <token> required"):
        authenticator(accounts=True)(None, "127.0.0.1", True)


def test_a_local_caller_without_a_bearer_is_the_demo_agent_when_there_is_one() -> None:
    assert authenticator(accounts=True, demo=True)(None, "127.0.0.1", True) == DEMO


def test_a_caller_from_elsewhere_needs_a_bearer_when_there_is_a_demo_agent() -> None:
    with pytest.raises(AuthenticationFailed):
        authenticator(accounts=True, demo=True)(None, "192.0.2.1", False)


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic x", "bearer vtk_one"])
def test_a_wrong_bearer_is_not_the_demo_agent_when_there_is_one(authorization: str) -> None:
    with pytest.raises(AuthenticationFailed):
        authenticator(accounts=True, demo=True)(authorization, "127.0.0.1", True)


def test_who_presents_a_token_that_only_a_purchase_can_prove_counts_as_where_it_comes_from() -> None:
    caller = authenticator(accounts=True)("Bearer vtk_maybe", "192.0.2.1", False)

    assert (caller.proven, caller.client) == (False, "peer 192.0.2.1")
    assert caller.token is not None
    assert caller.token.reveal() == "vtk_maybe"
    assert "vtk_maybe" not in repr(caller)

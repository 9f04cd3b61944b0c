"""Who a bearer token belongs to.

With accounts every request that spends is an agent's; without them ``[server] auth_token`` guards the proxy, and when
that is absent too, everybody may use it. The admin token sees everything and spends nothing.
"""

from __future__ import annotations

from attrs import frozen

from arbstr.accounts import Bank
from arbstr.config import ServerConfig
from arbstr.errors import AuthenticationFailed
from arbstr.requests._interface import Caller

_SCHEME = "Bearer "
_ADMIN = Caller(None, "admin", "admin")
_CLIENT = Caller(None, "client", "client")


@frozen
class Authenticator:
    """Call it with the ``Authorization`` value, the peer's address, and whether the peer is on this machine.

    A caller that is not ``proven`` may buy, which proves it, and nothing else."""

    server: ServerConfig
    accounts: Bank | None
    demo: Caller | None = None
    """Who a local peer without a bearer is, in the demonstration market."""

    def __call__(self, authorization: str | None, peer: str, loopback: bool) -> Caller:
        """Raises AuthenticationFailed (401)."""
        if authorization is None and self.demo is not None and loopback:
            return self.demo
        token = _token(authorization)
        caller = None if token is None else self._known(token, peer)
        if caller is not None:
            return caller
        if self.accounts is None and self.server.auth_token is None:
            return Caller(None, "anonymous", "anonymous", client=f"peer {peer}")
        raise AuthenticationFailed(
            "Authorization: Bearer <token> required" if token is None else "the bearer token is not known here"
        )

    def _known(self, token: str, peer: str) -> Caller | None:
        if self.server.admin_token is not None and self.server.admin_token.matches(token):
            return _ADMIN
        if self.accounts is not None:
            holder = self.accounts.holder_of(token)
            if holder is None:
                return None
            client = "" if holder.proven else f"peer {peer}"  # who makes up tokens is counted by where it comes from
            return Caller(holder.agent_id, "agent", holder.name, client, holder.budget_id, holder.token, holder.proven)
        if self.server.auth_token is not None and self.server.auth_token.matches(token):
            return _CLIENT
        return None


def _token(authorization: str | None) -> str | None:
    """What follows ``Bearer ``, scheme and single space exactly so (contract section 3.2)."""
    if authorization is None or not authorization.startswith(_SCHEME):
        return None
    return authorization[len(_SCHEME) :]

"""The HTTP front end: connections, routes, error bodies. Parses, makes one call, renders; knows nothing of money."""

from arbstr.edge._app import EdgeApp, make_app
from arbstr.edge._catalogue import NO_FEED
from arbstr.edge._gate import Gate
from arbstr.edge._page import answer_page
from arbstr.edge._routes import ROUTES, Route
from arbstr.edge._server import CannotListen, addresses_of, open_listeners, serve
from arbstr.edge._services import Limits, Services
from arbstr.edge._turns import Shares, Turn
from arbstr.edge._vault_interface import PayWish, Settled, Usage, VaultServices
from arbstr.edge._vault_routes import VAULT_ROUTES, VaultRoute
from arbstr.edge._vault_services import AccountsVault

__all__ = [
    "NO_FEED",
    "ROUTES",
    "VAULT_ROUTES",
    "AccountsVault",
    "CannotListen",
    "EdgeApp",
    "Gate",
    "Limits",
    "PayWish",
    "Route",
    "Services",
    "Settled",
    "Shares",
    "Turn",
    "Usage",
    "VaultRoute",
    "VaultServices",
    "addresses_of",
    "answer_page",
    "make_app",
    "open_listeners",
    "serve",
]

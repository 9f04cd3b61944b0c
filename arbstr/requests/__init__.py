"""The life of one request, from parse to receipt."""

from arbstr.requests._access import Authenticator
from arbstr.requests._actor import RequestActor, Requests
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import Caller, ClientGone, ModelRequest, PlainAnswer, Responder

__all__ = [
    "Authenticator",
    "Caller",
    "ClientGone",
    "ModelRequest",
    "PlainAnswer",
    "RequestActor",
    "RequestContext",
    "Requests",
    "Responder",
]

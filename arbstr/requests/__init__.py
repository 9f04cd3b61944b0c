"""The life of one request, from parse to receipt."""

from arbstr.requests._access import Authenticator
from arbstr.requests._actor import RequestActor, Requests
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import Caller, ChatRequest, ClientGone, PlainAnswer, Responder

__all__ = [
    "Authenticator",
    "Caller",
    "ChatRequest",
    "ClientGone",
    "PlainAnswer",
    "RequestActor",
    "RequestContext",
    "Requests",
    "Responder",
]

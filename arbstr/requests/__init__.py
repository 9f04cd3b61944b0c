"""The life of one request, from parse to receipt."""

from arbstr.requests._access import Authenticator
from arbstr.requests._actor import Quote, RequestActor, Requests
from arbstr.requests._asking import MAX_WAITING, POLL_S, WaitingRoom
from arbstr.requests._context import Observer, RequestContext, Upstreams
from arbstr.requests._interface import Caller, ClientGone, ModelRequest, PlainAnswer, Responder
from arbstr.requests._limits import Limits

__all__ = [
    "MAX_WAITING",
    "POLL_S",
    "Authenticator",
    "Caller",
    "ClientGone",
    "Limits",
    "ModelRequest",
    "Observer",
    "PlainAnswer",
    "Quote",
    "RequestActor",
    "RequestContext",
    "Requests",
    "Responder",
    "Upstreams",
    "WaitingRoom",
]

"""Errors that a caller of the API can meet, split by whose fault they are. This module imports nothing of ours.

ArbstrError                     anything that ends a request; knows its HTTP status and OpenAI error fields
├── ClientError                 the caller must change something
│   ├── InvalidRequest          400  not understood, or asks for what is not there
│   ├── AuthenticationFailed    401  no bearer, or one that nobody holds
│   ├── PermissionRefused       403  known, but not allowed
│   ├── NotFound                404
│   │   └── ModelNotFound       404  as OpenAI says it
│   ├── MethodNotAllowed        405
│   ├── RequestTimeout          408  the body did not arrive in time
│   ├── BodyTooLarge            413
│   ├── UnsupportedMediaType    415
│   ├── RateLimited             429  this client, or all together, ask for more than is allowed
│   └── UpstreamRejected        4xx  the provider says that the request is at fault; its body is passed on
├── BillingRefused              402, 403 or 429: the account does not allow it
│   └── ApprovalNeeded          403  unless a human does
└── ServiceError                ours or a provider's
    ├── ProviderFailed          502  the last provider tried broke; or 429 when it was a rate limit
    ├── NoProviderAvailable     503  every candidate is shut out
    ├── LedgerUnavailable       503  no ledger, no spending (M10)
    │   ├── NotAnswered         503  the account did not say; what was asked may have been done all the same
    │   └── SettlementsWaiting  503  too many ends of holds wait for their vault
    ├── Overloaded              503  a bound was reached
    ├── ShuttingDown            503
    ├── DeadlineExceeded        504
    └── InternalError           500
"""

from __future__ import annotations

from typing import ClassVar


class ArbstrError(Exception):
    """What ends a request. ``reason`` is the machine-readable name, ``message`` says what would fix it.

    The wire shape is made by ``arbstr.wire``: ``type`` and ``code`` keep the predecessor's values, ``reason`` is added.
    """

    status: int = 500
    type: ClassVar[str] = "arbstr_error"
    reason: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        status: int | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: dict[str, int | str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.details = details or {}
        if reason is not None:
            self.reason = reason
        if status is not None:
            self.status = status

    @property
    def code(self) -> int | str:
        """The ``error.code`` of the body: the HTTP status, unless a family fixes a word."""
        return self.status


class ClientError(ArbstrError):
    status = 400
    reason = "invalid_request"


class InvalidRequest(ClientError):
    """Not understood, or it asks for what is not there."""


class AuthenticationFailed(ClientError):
    status = 401
    type = "authentication_error"
    reason = "invalid_api_key"

    @property
    def code(self) -> str:
        return "invalid_api_key"


class PermissionRefused(ClientError):
    status = 403
    reason = "forbidden"


class NotFound(ClientError):
    status = 404
    reason = "not_found"


class ModelNotFound(NotFound):
    """Asked about one model that nobody lists; SDKs know the words."""

    type = "invalid_request_error"
    reason = "model_not_found"

    @property
    def code(self) -> str:
        return "model_not_found"


class MethodNotAllowed(ClientError):
    status = 405
    reason = "method_not_allowed"

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeout(ClientError):
    status = 408
    reason = "request_timeout"


class BodyTooLarge(ClientError):
    status = 413
    reason = "body_too_large"


class UnsupportedMediaType(ClientError):
    status = 415
    reason = "unsupported_media_type"


class RateLimited(ClientError):
    """Too much was asked for in too short a time; ``retry_after_s`` is when it would pass.

    ``headers`` are OpenAI's ``x-ratelimit-*``, to be sent with the answer.
    """

    status = 429
    reason = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        details: dict[str, int | str] | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, details=details)
        self.headers = headers


class UpstreamRejected(ClientError):
    """The provider answered that the request itself is wrong; status and error body are passed on."""

    reason = "rejected_by_provider"

    def __init__(self, message: str, *, status: int, provider: str, body: bytes) -> None:
        super().__init__(message, status=status)
        self.provider = provider
        self.body = body
        """The provider's answer, to be passed on when it already has OpenAI's error shape."""


class BillingRefused(ArbstrError):
    """The account refuses: balance, limit, policy. ``reason`` says which."""

    status = 402
    type = "billing_error"
    reason = "insufficient_balance"

    @property
    def code(self) -> str:
        return f"vault_{self.status}"


class ApprovalNeeded(BillingRefused):
    """A request is larger than one transaction may be, and the policy says that a human may be asked about it."""

    status = 403
    reason = "exceeds_max_transaction"


class ServiceError(ArbstrError):
    status = 500


class ProviderFailed(ServiceError):
    status = 502
    reason = "provider_failed"


class NoProviderAvailable(ServiceError):
    status = 503
    reason = "no_provider_available"


class LedgerUnavailable(ServiceError):
    status = 503
    type = "server_error"
    reason = "ledger_unavailable"


class NotAnswered(LedgerUnavailable):
    """No answer came, or none in time: what was asked may have been done all the same."""


class SettlementsWaiting(LedgerUnavailable):
    """So many ends of holds wait for the vault that no more is bought until it takes them."""

    reason = "settlements_waiting"

    @property
    def code(self) -> str:
        return "vault_backpressure"


class Overloaded(ServiceError):
    status = 503
    type = "server_error"
    reason = "overloaded"


class ShuttingDown(ServiceError):
    status = 503
    type = "server_error"
    reason = "shutting_down"


class DeadlineExceeded(ServiceError):
    status = 504
    reason = "deadline_exceeded"


class InternalError(ServiceError):
    status = 500
    reason = "internal_error"

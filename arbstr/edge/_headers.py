"""What request headers say. Pure: bytes in, values out; what is not understood is as good as absent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

HEADER_TEXT_MAX = 200
"""Characters of a client's own words (correlation id, policy name) that are kept; longer ones are ignored whole."""

_JSON = re.compile(rb"application/(?:[!#$%&'*+.^_`|~0-9a-z-]+\+)?json[ \t]*(?:;.*)?", re.IGNORECASE)
_PRINTABLE = re.compile(rb"[\x20-\x7e]{1,%d}" % HEADER_TEXT_MAX)
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")


class Headers:
    """The headers of one request; names are lower case, as the protocol below leaves them."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[bytes, bytes] = {}
        for name, value in pairs:
            # Repeated lines are one list (RFC 9110, 5.3). For a field that is no list the result matches nothing, which
            # is the safe reading of two bearers.
            known = self._values.get(name)
            self._values[name] = value if known is None else known + b", " + value

    def get(self, name: bytes) -> bytes | None:
        return self._values.get(name)

    @property
    def authorization(self) -> str | None:
        value = self._values.get(b"authorization")
        return None if value is None else value.decode("latin-1")

    @property
    def content_length(self) -> int | None:
        """The declared length; the protocol below has already refused one that is no number."""
        value = self._values.get(b"content-length")
        return int(value) if value is not None and value.isdigit() else None

    @property
    def has_body(self) -> bool:
        return b"transfer-encoding" in self._values or bool(self.content_length)

    @property
    def is_json(self) -> bool:
        """``application/json`` or ``application/*+json``, parameters allowed."""
        value = self._values.get(b"content-type")
        return value is not None and _JSON.fullmatch(value) is not None

    @property
    def correlation_id(self) -> str | None:
        """What the client calls this request; our own header name is the more specific and wins."""
        return self._text(b"x-arbstr-request-id") or self._text(b"x-request-id")

    @property
    def traceparent(self) -> str | None:
        """W3C Trace Context, 3.2: version, trace id, parent id and flags in lower-case hex, ids not all zero."""
        value = self._text(b"traceparent")
        found = _TRACEPARENT.fullmatch(value) if value is not None else None
        if found is None:
            return None
        version, trace_id, parent_id, rest = found.groups()
        if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not parent_id.strip("0"):
            return None
        return value

    @property
    def policy(self) -> str | None:
        value = self._values.get(b"x-arbstr-policy", b"").decode("utf-8", "replace")
        return value if 0 < len(value) <= HEADER_TEXT_MAX else None

    @property
    def complexity(self) -> str | None:
        """``low``, ``medium`` or ``high``, in lower case (contract section 5.1); other words are ignored."""
        value = self._values.get(b"x-arbstr-complexity", b"").lower()
        return value.decode() if value in (b"low", b"medium", b"high") else None

    @property
    def wait_s(self) -> int | None:
        """``Prefer: wait=N`` (RFC 7240), in seconds."""
        found = _WAIT.search(self._values.get(b"prefer", b"").decode("latin-1"))
        return None if found is None else int(found[1])

    @property
    def approval_id(self) -> str | None:
        """Of the approval that the client comes with."""
        return self._text(b"x-arbstr-approval")

    @property
    def stream_cost(self) -> bool:
        return self._values.get(b"x-arbstr-stream-cost") == b"1"

    @property
    def was_forwarded(self) -> bool:
        """A proxy says that it passes somebody else's request on."""
        return any(name in self._values for name in _FORWARDED)

    def _text(self, name: bytes) -> str | None:
        value = self._values.get(name)
        return value.decode("ascii") if value is not None and _PRINTABLE.fullmatch(value) else None


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether a peer's numeric address is this machine, also as IPv4 within IPv6."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback

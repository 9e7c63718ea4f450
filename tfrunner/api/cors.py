"""CORS: which web pages of other origins may call the server and read its answers.

Source: the Fetch standard, section "CORS protocol". Without it browsers keep answers from the
pages of other origins; nobody else is kept from anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tfrunner.api.replies import Header
from tfrunner.errors import ConfigError

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*?#@]+|null")
TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,1000}")

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
USUAL_HEADERS = b"authorization, content-type, x-api-key, x-request-id"
EXPOSED = b"x-request-id, retry-after, server-timing"
"""Headers of answers that pages may read, beside those that they always may."""

MAX_AGE = b"600"
"""Seconds for which a browser need not ask again."""

NOT_ALLOWED = "pages of the origin {} may not call this server; its --cors-origin may allow it."


class Preflight(NamedTuple):
    """What a browser's question is answered with."""

    is_allowed: bool
    headers: tuple[Header, ...]


class Cors:
    """Answers for the origins that are allowed.

    Args:
        origins: `https://app.example`, or `*` for all.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._is_open = b"*" in self._origins

    def __repr__(self) -> str:
        return f"<Cors {b', '.join(sorted(self._origins)).decode()}>"

    def headers(self, origin: bytes) -> tuple[Header, ...]:
        """Return the headers of an answer to a page of that origin; b"": to none."""
        if self._is_open:
            allowed: tuple[Header, ...] = ((b"access-control-allow-origin", b"*"),)
            return (*allowed, (b"access-control-expose-headers", EXPOSED)) if origin else allowed
        varies = (b"vary", b"origin")
        if origin not in self._origins:
            return (varies,)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED),
            varies,
        )

    def preflight(self, given: Mapping[bytes, bytes]) -> Preflight | None:
        """Return the answer to a browser's question; None: these are headers of none.

        Args:
            given: The headers of an OPTIONS request, their names in lower case.
        """
        origin, method = given.get(b"origin"), given.get(b"access-control-request-method")
        if not origin or not method:
            return None
        if not self._is_open and origin not in self._origins:
            return Preflight(False, ((b"vary", b"origin"),))
        asked = given.get(b"access-control-request-headers", b"")
        wanted = asked if asked and TOKENS.fullmatch(asked) else USUAL_HEADERS
        return Preflight(
            True,
            (
                *self.headers(b"" if self._is_open else origin),
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", MAX_AGE),
            ),
        )


def check_origin(origin: str) -> str:
    """Return an origin as browsers write it.

    Raises:
        ConfigError: It is none.
    """
    written = origin.strip().lower().removesuffix("/")
    if written == "*" or ORIGIN.fullmatch(written):
        return written
    raise ConfigError(
        f"--cors-origin is {origin!r}; expected `https://app.example`, with its port if it has "
        "one and without a path, or `*`."
    )

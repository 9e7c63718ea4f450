"""What an endpoint may know of its request, and say about its answer, beside their bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import Request

from tfrunner.errors import ModelError, StateError

SameSite = Literal["lax", "strict", "none"]

SERVERS_OWN = frozenset(("connection", "content-length", "transfer-encoding", "x-request-id"))
"""Headers of an answer that no endpoint sets."""


class Cookie(NamedTuple):
    """A cookie of an answer.

    Args:
        max_age: Seconds that it is kept; None: as long as the browser runs.
        expires: Date, as RFC 7231 writes it, or seconds from now.
        path: Paths that it is sent back to.
        domain: Hosts that it is sent back to; None: the one that set it.
        secure: Send it back over HTTPS only.
        httponly: Hide it from scripts.
        samesite: Whether requests from other sites have it; None: as the browser likes.
    """

    key: str
    value: str = ""
    max_age: int | None = None
    expires: int | str | None = None
    path: str | None = "/"
    domain: str | None = None
    secure: bool = False
    httponly: bool = False
    samesite: SameSite | None = "lax"


class RequestContext:
    """The request, apart from its body.

    Args:
        request: As it came.
        id: Its id, which the answer and the log have too.
    """

    def __init__(self, request: Request, id: str) -> None:
        self._request = request
        self.id = id

    def __repr__(self) -> str:
        return f"<RequestContext {self.method} {self.path} {self.id}>"

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self._request.method

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self._request.url.path

    @property
    def headers(self) -> Headers:
        """The headers; names in any case."""
        return self._request.headers

    @property
    def metadata(self) -> Headers:
        """The headers, under the name that other servers give them."""
        return self._request.headers

    @property
    def query_params(self) -> QueryParams:
        """The parameters of the query, `?name=value`."""
        return self._request.query_params

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies."""
        return self._request.cookies

    @property
    def client(self) -> str | None:
        """The host that the request came from; None where it is not known."""
        return self._request.client.host if self._request.client else None


class AnswerHeaders(MutableHeaders):
    """The headers of an answer; what none can hold is refused where it is set."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _header_text(key, value))

    def setdefault(self, key: str, value: Any) -> str:
        """Set a header unless there is one of that name; return what it is then."""
        return super().setdefault(key, _header_text(key, value))

    def append(self, key: str, value: Any) -> None:
        """Add a header, also where there is one of that name."""
        super().append(key, _header_text(key, value))


def _header_text(name: Any, value: Any) -> str:
    """Return the value of a header as text.

    Raises:
        ModelError: It is no text and no number, or has signs beyond Latin-1 (RFC 9110, 5.5).
    """
    text = str(value) if isinstance(value, (int, float)) else value
    if not isinstance(text, str) or not isinstance(name, str):
        raise ModelError(
            f"the endpoint set the header {name!r} to a {type(value).__name__}; expected text"
        )
    try:
        (name + text).encode("latin-1")
    except UnicodeEncodeError:
        raise ModelError(
            f"the endpoint set the header {name!r} to {text!r}, but headers hold Latin-1 only; "
            "encode it, with urllib.parse.quote for one"
        ) from None
    return text


class ResponseContext:
    """What the answer has beside its body.

    Attributes:
        status_code: From 200 to 599.
        headers: Further headers, text or numbers; names in any case. A Content-Type here goes
            before the descriptor's.
        cookies: What `set_cookie` added.
    """

    def __init__(self) -> None:
        self.status_code = 200
        self.headers = AnswerHeaders()
        self.cookies: list[Cookie] = []

    def __repr__(self) -> str:
        return f"<ResponseContext {self.status_code} [{len(self.headers)} headers]>"

    def set_cookie(self, key: str, value: str = "", **options: Any) -> None:
        """Add a cookie.

        Args:
            key: Its name.
            value: Its value.
            options: See `Cookie`.
        """
        self.cookies.append(Cookie(key, value, **options))

    def check(self) -> None:
        """Refuse what cannot be sent.

        Raises:
            ModelError: The status or a header is none, or is the server's own.
        """
        status = self.status_code
        if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
            raise ModelError(
                f"the endpoint set the status {status!r}; expected a number from 200 to 599"
            )
        for name, value in self.headers.items():
            if name.lower() in SERVERS_OWN:
                raise ModelError(f"the endpoint set the header {name!r}, which is the server's own")
            if not value.isprintable() or not (name.isprintable() and name.isascii() and name):
                raise ModelError(f"the endpoint set the header {name!r} to what no header may hold")


class Context:
    """What an endpoint's second argument, and every hook's only one, is.

    Args:
        state: Kept for a Service in each api process: hooks fill it, endpoints read it.
        request: None in hooks.
        response: None in hooks.
    """

    def __init__(
        self,
        state: dict[str, Any],
        request: RequestContext | None = None,
        response: ResponseContext | None = None,
    ) -> None:
        self.state = state
        self._request = request
        self._response = response

    def __repr__(self) -> str:
        return f"<Context [{self._request!r} | {len(self.state)} in state]>"

    @property
    def request(self) -> RequestContext:
        """The request.

        Raises:
            StateError: This is a hook's context.
        """
        if self._request is None:
            raise StateError("a hook has no request: only endpoints do")
        return self._request

    @property
    def response(self) -> ResponseContext:
        """What the answer has beside its body.

        Raises:
            StateError: This is a hook's context.
        """
        if self._response is None:
            raise StateError("a hook has no response: only endpoints do")
        return self._response

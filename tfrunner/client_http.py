"""The client's way over HTTP: what is asked, and what the replies mean.

`HttpCalls` knows every call as steps: a generator that yields requests and is sent replies.
No sockets and no clock here, so the sync and the async client share it; the exchange of
requests for replies is in `client_connection`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from tfrunner import casting, packing
from tfrunner.client_endpoints import accepted_types, read_value, write_value
from tfrunner.client_models import ModelCall, ModelState, choose_method, spread
from tfrunner.errors import (
    BY_CODE,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    ProtocolError,
    TFRunnerError,
    TooLarge,
    Unavailable,
    from_wire,
)
from tfrunner.specs import DictSpec, MethodSpec, ModelSpec
from tfrunner.values import in_python

T = TypeVar("T")


class HttpRequest(NamedTuple):
    """One request.

    Args:
        path: Where it goes on the server.
        body: If there is one.
        is_repeatable: Whether it may be answered twice.
        content_type: The body's.
    """

    verb: str
    path: str
    body: bytes = b""
    is_repeatable: bool = True
    content_type: str = packing.CONTENT_TYPE


class HttpReply(NamedTuple):
    """One reply, read whole."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


Steps = Generator[HttpRequest, HttpReply, T]


class HttpCalls:
    """Every call as steps, and the specifications of models that were called before."""

    def __init__(self) -> None:
        self._specs: dict[str, ModelSpec] = {}
        self._document: dict[str, Any] = {}

    def call(self, endpoint: str, value: Any) -> Steps[Any]:
        """Send a value to an endpoint of a Service, return what it answers."""
        path = "/" + endpoint.removeprefix("/")
        if path not in self._document.get("paths", ()):
            reply = yield HttpRequest("GET", "/openapi.json")
            self._document = _check(reply, msgspec.json.Decoder(dict[str, Any]).decode)
        body = write_value(value, accepted_types(self._document, path))
        reply = yield HttpRequest("POST", path, body.data, False, body.content_type)
        if not 200 <= reply.status < 300:
            raise _error(reply)
        content_type = reply.headers.get(b"content-type", b"").decode("latin-1")
        return read_value(reply.body, content_type) if reply.body else None

    def predict(self, call: ModelCall) -> Steps[Any]:
        """Cast the input to the model's specification, send it, return the outputs."""
        known = self._specs.get(call.model)
        if known is not None:
            try:
                return (yield from self._predict(call, known))
            except (InvalidInput, NotFound):
                # The name may stand for another version by now; if not, the error holds.
                self._specs.pop(call.model, None)
                if (spec := (yield from self._fetch(call.model))) == known:
                    raise
        else:
            spec = yield from self._fetch(call.model)
        return (yield from self._predict(call, spec))

    def _predict(self, call: ModelCall, spec: ModelSpec) -> Steps[Any]:
        method = choose_method(spec, call.method)
        body = call.in_form(method, _pack)
        path = f"{_model_path(call.model)}:predict"
        reply = yield HttpRequest("POST", path, body, method.repeatable)
        answer = _check(reply, packing.unpack)
        if not isinstance(answer, dict) or "outputs" not in answer:
            raise ProtocolError("the server's answer has no 'outputs'")
        return _with_tuples(answer["outputs"], answer.get("tuples", []))

    def _fetch(self, model: str) -> Steps[ModelSpec]:
        reply = yield HttpRequest("GET", f"{_model_path(model)}/metadata")
        spec = _check(reply, msgspec.json.Decoder(ModelSpec).decode)
        self._specs[model] = spec
        return spec

    def models(self) -> Steps[list[ModelState]]:
        """Return every model that the server knows."""
        reply = yield HttpRequest("GET", "/v1/models")
        return _check(reply, msgspec.json.Decoder(_Listing).decode).models

    def is_ready(self, model: str | None) -> Steps[bool]:
        """Return whether the server, or one model of it, is ready; False if it cannot say."""
        try:
            if model is None:
                return (yield HttpRequest("GET", "/readyz")).status == 200
            known = yield from self.models()
        except (Unavailable, DeadlineExceeded):
            return False
        return any(each.is_available for each in known if each.is_meant_by(model))

    def status(self) -> Steps[dict[str, Any]]:
        """Return the server's whole state as plain data."""
        reply = yield HttpRequest("GET", "/v1/status")
        return _check(reply, msgspec.json.Decoder(dict[str, Any]).decode)


class _Listing(msgspec.Struct, frozen=True):
    models: list[ModelState]


class _Fault(msgspec.Struct, frozen=True):
    """The body of an error reply."""

    error: str
    code: str = ""
    request_id: str | None = None


def _pack(call: ModelCall, method: MethodSpec) -> bytes:
    """Return the body of a predict request: the input, cast to the method's specification."""
    variant, arrays = casting.choose(method, *spread(method, call.args, call.kwargs))
    whole = DictSpec({each.name: each.spec for each in variant.arguments})
    return packing.pack({"inputs": in_python(whole, arrays), "method": method.name})


def _with_tuples(value: Any, paths: list[list[str | int]]) -> Any:
    """Return an answer with tuples where MessagePack could only carry lists."""
    for path in paths:  # inner ones come first
        if not path:
            return tuple(value)
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = tuple(holder[path[-1]])
    return value


def _model_path(model: str) -> str:
    name, _, version = model.partition(":")
    path = f"/v1/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _check(reply: HttpReply, decode: Callable[[bytes], T]) -> T:
    """Return the decoded body of a reply, or raise the error that it carries."""
    if reply.status != 200:
        raise _error(reply)
    try:
        return decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ProtocolError(f"the server's answer is not what was asked for: {exc}") from exc


_BY_STATUS: dict[int, type[TFRunnerError]] = {
    400: InvalidInput,
    404: NotFound,
    413: TooLarge,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}
"""What a reply without a known code means: a proxy's, say."""


def was_refused(reply: HttpReply) -> bool:
    """Return whether the server says that it did not begin the request."""
    return _fault(reply).code in (Unavailable.code, Overloaded.code)


def _fault(reply: HttpReply) -> _Fault:
    try:
        return msgspec.json.decode(reply.body, type=_Fault)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = reply.body[:200].decode(errors="replace").strip()
        return _Fault(f"the server answered with status {reply.status}: {text or 'no text'}")


def _error(reply: HttpReply) -> TFRunnerError:
    retry_after = _seconds(reply.headers.get(b"retry-after"))
    request_id = reply.headers.get(b"x-request-id", b"").decode("latin-1") or None
    fault = _fault(reply)
    if fault.code in BY_CODE:
        error = from_wire(fault.code, fault.error, retry_after=retry_after)
    else:
        kind = _BY_STATUS.get(reply.status, TFRunnerError)
        error = kind(fault.error, retry_after=retry_after)
    error.request_id = fault.request_id or request_id
    return error


def _seconds(text: bytes | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # a date: HTTP allows it
        return None

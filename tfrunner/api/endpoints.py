"""The endpoints of Services: POST /<route>, the user's function between two descriptors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfrunner.api.bodies import ClientGone, read_body
from tfrunner.api.calls import Place, wait_until
from tfrunner.api.disconnects import Disconnects
from tfrunner.api.framing import check_coding
from tfrunner.api.hooks import Served
from tfrunner.api.predict import read_timeout
from tfrunner.api.replies import Receive, Scope, Send
from tfrunner.api.state import ProcessState
from tfrunner.api.streaming import Broken, Streamed, in_threads, is_stream
from tfrunner.context import Context, RequestContext, ResponseContext
from tfrunner.deadlines import begin_request
from tfrunner.endpoint import Endpoint
from tfrunner.errors import ModelError, TFRunnerError
from tfrunner.io.body import Body, is_slow

READ_IN_LOOP = 256 * 2**10
"""Bytes; larger bodies are read in a thread also for async endpoints: parsing takes a while.

So are the results of such requests, and larger arrays, written.
"""

WITHOUT_BODY = (204, 205, 304)


def endpoint_routes(
    served: Iterable[Served], *, state: ProcessState, timeout: float
) -> list[Route]:
    """Return one route for each endpoint.

    Args:
        served: The Services.
        state: What the connections share.
        timeout: Seconds that a request may take where it does not say.
    """
    disconnects = Disconnects()
    return [
        Route(
            endpoint.route,
            Answer(each, endpoint, state=state, timeout=timeout, disconnects=disconnects),
            methods=["POST"],
        )
        for each in served
        for endpoint in each.service.endpoints.values()
    ]


class Asked(NamedTuple):
    """One request of an endpoint, whole.

    Args:
        request: As Starlette has it.
        body: What the function is to be called with.
        context: What the function may know and say beside.
        place: Held until all work for it is done.
        deadline: Moment of the event loop's clock by which it must be answered.
        timeout: Seconds that its caller was promised.
    """

    request: Request
    body: Body
    context: Context
    place: Place
    deadline: float
    timeout: float


class Answer:
    """Answers the requests of one endpoint; an ASGI application.

    Args:
        served: Its Service.
        endpoint: The user's function and its descriptors.
        state: What the connections share.
        timeout: Seconds that a request may take where it does not say.
        disconnects: Cancels the calls of clients that go away.
    """

    def __init__(
        self,
        served: Served,
        endpoint: Endpoint,
        *,
        state: ProcessState,
        timeout: float,
        disconnects: Disconnects,
    ) -> None:
        self._served = served
        self._endpoint = endpoint
        self._state = state
        self._timeout = timeout
        self._disconnects = disconnects
        self._what = f"the endpoint {endpoint.name!r}"
        self._is_async = endpoint.is_async

    def __repr__(self) -> str:
        return f"<Answer {self._endpoint.route} {self._served!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            TFRunnerError: It is to be answered with this error; nothing was sent.
            Broken: The answer ended before it was whole.
        """
        check_coding(scope)
        request = Request(scope, receive)
        given = request.headers.get("x-request-timeout")
        timeout = self._timeout if given is None else read_timeout(given.encode("latin-1"))
        deadline = asyncio.get_running_loop().time() + timeout
        begin_request(timeout)
        try:
            body = await self._read_body(request)
            place = self._served.calls.enter(needs_thread=not self._is_async)
            context = self._context(request)
            try:
                await self._answer(Asked(request, body, context, place, deadline, timeout), send)
            finally:
                place.leave()
        except ClientGone:
            return

    def _context(self, request: Request) -> Context:
        id = request.scope["tfrunner.request_id"].decode()
        return Context(self._served.state, RequestContext(request, id), ResponseContext())

    async def _read_body(self, request: Request) -> Body:
        length = request.headers.get("content-length")
        data = await read_body(
            request.receive,
            self._state.bounds.body_limit,
            length=length.encode() if length else None,
            held=self._state.held,
        )
        return Body(data, request.headers.get("content-type", ""), request.headers)

    async def _answer(self, asked: Asked, send: Send) -> None:
        """Call the function and send what it gives."""
        request, response = asked.request, asked.context.response
        result = await self._wait(self._begin(asked), asked)
        if isinstance(result, Body):
            await make_response(result, response)(request.scope, request.receive, send)
            return
        streamed = Streamed(
            self._pieces(result, asked.place),
            self._endpoint.output.piece,  # type: ignore[attr-defined]
            timeout=asked.timeout,
            deadline=asked.deadline,
            what=self._what,
        )
        try:
            await streamed.run(lambda: self._stream_head(response), request.receive, send)
        except TFRunnerError:
            raise
        except Broken:
            request.scope["tfrunner.progress"].is_broken = True
            raise
        except Exception as exc:
            raise self._failed() from exc

    async def _wait(self, future: asyncio.Future[Any], asked: Asked) -> Any:
        """Return what the function gives; give it up at its deadline, or if nobody waits.

        Raises:
            ClientGone: Nobody waits.
            DeadlineExceeded: It is late.
            TFRunnerError: It failed.
        """
        self._disconnects.add(future, asked.request.receive)
        try:
            result = await wait_until(
                future, asked.deadline, what=self._what, timeout=asked.timeout
            )
        except Exception as exc:
            if self._disconnects.remove(future):
                raise ClientGone from exc
            if isinstance(exc, TFRunnerError):
                raise
            raise self._failed() from exc
        except BaseException:
            self._disconnects.remove(future)
            raise
        self._disconnects.remove(future)
        return result

    def _failed(self) -> TFRunnerError:
        return TFRunnerError(f"{self._what} failed; the server's log has the details")

    # --- the function ---------------------------------------------------------------------------

    def _begin(self, asked: Asked) -> asyncio.Future[Any]:
        """Return the future of the answer's body, or of the iterator of its pieces."""
        calls = self._served.calls
        if self._is_async:
            return calls.in_loop(self._call_in_loop(asked), asked.place)
        return calls.in_thread(_without_stop(lambda: self._call_in_thread(asked)), asked.place)

    async def _call_in_loop(self, asked: Asked) -> Any:
        endpoint, calls, body = self._endpoint, self._served.calls, asked.body
        is_large = len(body.data) > READ_IN_LOOP
        if is_large or is_slow(endpoint.input):
            value = await calls.in_thread(lambda: endpoint.input.read(body), asked.place)
        else:
            value = endpoint.input.read(body)
        result = endpoint.call(value, asked.context)
        if not hasattr(result, "__anext__"):
            result = await result
        if is_large or _is_large(result) or is_slow(endpoint.output):
            return await calls.in_thread(lambda: self._write(result, asked.context), asked.place)
        return self._write(result, asked.context)

    def _call_in_thread(self, asked: Asked) -> Any:
        value = self._endpoint.input.read(asked.body)
        return self._write(self._endpoint.call(value, asked.context), asked.context)

    def _write(self, result: Any, context: Context) -> Any:
        """Return the body of a result, or the iterator that it is."""
        if self._endpoint.can_stream and is_stream(result):
            return result
        context.response.check()
        try:
            return self._endpoint.output.write(result)
        except TFRunnerError:
            raise
        except Exception as exc:
            kind = type(self._endpoint.output).__name__
            raise ModelError(
                f"{self._what} returned a {type(result).__name__}, which {kind} cannot write: {exc}"
            ) from exc

    def _pieces(self, result: Any, place: Place) -> AsyncIterator[Any]:
        if hasattr(result, "__aiter__"):
            pieces: AsyncIterator[Any] = aiter(result)
            return pieces
        return in_threads(iter(result), self._served.calls, place)

    def _stream_head(self, response: ResponseContext) -> dict[str, Any]:
        """Return the message that begins a streamed answer; its length is not known."""
        response.check()
        content_type = getattr(self._endpoint.output, "content_type", "text/plain")
        head = make_response(Body(b"", content_type), response).raw_headers
        headers = [each for each in head if each[0] != b"content-length"]
        return {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers,
        }


def make_response(body: Body, context: ResponseContext) -> Response:
    """Return the answer with a body, and with what the function said beside it."""
    data = b"" if context.status_code in WITHOUT_BODY else body.data
    response = Response(
        data, context.status_code, headers=body.headers, media_type=body.content_type
    )
    for name in set(context.headers.keys()):
        del response.headers[name]
    for name, value in context.headers.items():
        response.headers.append(name, value)
    for cookie in context.cookies:
        response.set_cookie(**cookie._asdict())
    return response


def _is_large(result: Any) -> bool:
    """Return whether it takes a while to write an array or tensor."""
    size = getattr(result, "nbytes", 0)
    return isinstance(size, int) and size > READ_IN_LOOP


def _without_stop(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return work that raises no StopIteration: a future cannot hold it."""

    def run() -> Any:
        try:
            return work()
        except StopIteration as exc:
            raise RuntimeError("the function raised StopIteration") from exc

    return run

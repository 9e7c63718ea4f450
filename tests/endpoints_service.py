"""The Services of the end-to-end tests; copied into a folder, and served from there.

Their hooks write files beside this one, by which the tests know that they ran.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import tfrunner
from tfrunner import Context
from tfrunner.io import JSON, File, Image, Multipart, NumpyNdarray, PandasDataFrame, Text

HERE = Path(__file__).parent


class Ways(tfrunner.Runnable):
    """What a model may do."""

    @tfrunner.Runnable.method(batchable=True)
    def echo(self, rows: Any) -> Any:
        """Return the rows."""
        return rows

    @tfrunner.Runnable.method(batchable=True)
    def double(self, rows: Any) -> Any:
        """Return twice the rows."""
        return np.asarray(rows) * 2

    @tfrunner.Runnable.method(batchable=True)
    def both(self, rows: Any) -> Any:
        """Return two outputs."""
        rows = np.asarray(rows)
        return rows, rows * 10

    @tfrunner.Runnable.method
    def same(self, value: Any) -> Any:
        """Return anything."""
        return value


class Slow(tfrunner.Runnable):
    """Takes its time."""

    @tfrunner.Runnable.method
    def wait(self, seconds: float) -> Any:
        """Return after so many seconds."""
        time.sleep(seconds)
        return seconds


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str
    age: int


class Ping:
    """ASGI middleware that answers /ping as /livez."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope.get("path") == "/ping":
            scope = {**scope, "path": "/livez"}
        await self.app(scope, receive, send)


ways = tfrunner.Runner(Ways, name="ways")
slow = tfrunner.Runner(Slow, name="slow")
svc = tfrunner.Service("endpoints", runners=[ways, slow])
CALLED = tfrunner.metrics.Counter("endpoints_called", "Calls of the endpoint `count`.", ["value"])


@svc.on_deployment
def deploy() -> None:
    """Note that it ran."""
    with (HERE / "deployed").open("a") as file:
        file.write("once\n")


@svc.on_startup
async def open_file(ctx: Context) -> None:
    """Keep an open file with a name of its own for each api process."""
    ctx.state["greeting"] = "hello"
    ctx.state["file"] = (HERE / f"started-{time.monotonic_ns()}").open("w")


@svc.on_shutdown
def close_file(ctx: Context) -> None:
    """Say goodbye in it."""
    ctx.state["file"].write("closed")
    ctx.state["file"].close()


@svc.api(NumpyNdarray(shape=(2, 2), enforce_shape=True), NumpyNdarray())
async def double(array: Any) -> Any:
    """Return twice the array."""
    return await ways.double.async_run(array)


@svc.api(NumpyNdarray(dtype="uint8", enforce_dtype=True), NumpyNdarray())
def small(array: Any) -> Any:
    """Return the array; in a thread."""
    return ways.echo.run(array)


@svc.api(NumpyNdarray(), JSON())
async def total(array: Any) -> Any:
    """Return the sum of two outputs of one model."""
    one, ten = await ways.both.async_run(array)
    return one + ten


@svc.api(JSON(), JSON())
async def echo(value: Any) -> Any:
    """Return a value that went through a batch."""
    return (await ways.echo.async_run([value]))[0]


@svc.api(JSON(), JSON())
def echo_sync(value: Any) -> Any:
    """Return a value that went through a batch; in a thread."""
    return ways.echo.run([value])[0]


@svc.api(JSON(), JSON())
async def same(value: Any) -> Any:
    """Return a value that a model saw alone."""
    return await ways.same.async_run(value)


@svc.api(JSON(pydantic_model=Person), JSON())
async def greet(person: Person) -> Any:
    """Return a greeting."""
    return {"greeting": f"hello {person.name}", "next_year": person.age + 1}


@svc.api(PandasDataFrame(), PandasDataFrame())
def frame(frame: Any) -> Any:
    """Return the table with a column more."""
    return frame.assign(total=frame["a"] + frame["b"])


@svc.api(File(), File())
def file(file: Any) -> Any:
    """Return the file."""
    return file.read()


@svc.api(
    Image(mime_type="image/bmp", allowed_mime_types=["image/bmp"]), Image(mime_type="image/bmp")
)
def image(image: Any) -> Any:
    """Return the image."""
    return image


@svc.api(
    Multipart(original=Image(), compared=Image()),
    Multipart(size=JSON(), image=Image(mime_type="image/bmp")),
)
async def two_images(original: Any, compared: Any) -> Any:
    """Return how much larger the first one is, and the second."""
    return {"size": original.width - compared.width, "image": compared}


@svc.api(Text(), Text())
async def stream(text: str) -> AsyncIterator[str]:
    """Return the words, one by one."""
    for word in text.split():
        yield word + "\n"
        await asyncio.sleep(0)


@svc.api(Text(), Text())
async def context(text: str, ctx: Context) -> str:
    """Return what the query says, as an error if there is one."""
    error = ctx.request.query_params.get("error")
    if error:
        ctx.response.status_code = 400
        return error
    ctx.response.set_cookie("greeted", "yes")
    greeting: str = ctx.state["greeting"]
    return greeting


@svc.api(JSON(), JSON(), route="/deep/count")
async def count(value: Any) -> Any:
    """Count, for each value."""
    CALLED.labels(value).inc()
    return value


@svc.api(JSON(), JSON())
async def several(value: Any) -> Any:
    """Return what several models say at once."""
    doubled, waited = await asyncio.gather(
        ways.double.async_run([value]), slow.wait.async_run(0.01)
    )
    return [doubled[0], waited]


@svc.api(JSON(), JSON())
def several_sync(value: Any) -> Any:
    """Return the same, with threads of its own."""
    with ThreadPoolExecutor(2) as pool:
        doubled = pool.submit(ways.double.run, [value])
        waited = pool.submit(slow.wait.run, 0.01)
        return [doubled.result()[0], waited.result()]


@svc.api(JSON(), JSON())
async def fail(value: Any) -> Any:
    """Raise."""
    raise ValueError("a secret of the user")


async def hello(request: Request) -> Response:
    """Answer."""
    return PlainTextResponse("hello")


svc.mount_asgi_app(Starlette(routes=[Route("/hello", hello)]))
svc.add_asgi_middleware(Ping)
svc.add_asgi_middleware(
    CORSMiddleware, allow_origins=["http://allowed.example"], allow_methods=["*"]
)

limited = tfrunner.Service("limited", runners=[slow], max_concurrency=2)


@limited.api(JSON(), JSON())
async def wait(seconds: float) -> Any:
    """Return after so many seconds."""
    await asyncio.sleep(seconds)
    return seconds


@limited.api(JSON(), JSON())
def wait_in_model(seconds: float) -> Any:
    """Return after a model has taken so many seconds."""
    return slow.wait.run(seconds)

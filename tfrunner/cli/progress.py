"""What people see while a server starts: a spinner in a terminal, lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.status import Status

from tfrunner.config import RunFile
from tfrunner.specs import DictSpec, ListSpec, ModelSpec, Node, NothingSpec, TensorSpec, TupleSpec

LONGEST_EXAMPLE = 400
"""Characters of a request's body that are still shown."""


class Progress:
    """Tells people how the start goes on; an Audience of the supervisor.

    Args:
        console: Where to; standard error, so that output stays clean.
        models: Specifications of what is served at first.
        routes: Paths that Services answer at first.
        as_json: Whether `ready` prints what is in `run.json` instead of a text.
        clock: Gives seconds, monotonic.
    """

    def __init__(
        self,
        console: Console,
        *,
        models: Sequence[ModelSpec],
        routes: Sequence[str] = (),
        as_json: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.models = {model.tag: model for model in models}
        self._routes = tuple(routes)
        self._as_json = as_json
        self._clock = clock
        self._started = clock()
        self._shown: dict[str, str] = {}
        self._spinner: Status | None = None

    def learn(self, models: Iterable[ModelSpec]) -> None:
        """Take the specifications of what is to be served after a reload, too."""
        self.models = {**self.models, **{model.tag: model for model in models}}

    def begin(self) -> None:
        """Say what is going on."""
        names = ", ".join(self.models)
        text = f"loading {names} (a worker needs 5 to 15 s: it imports TensorFlow first)"
        if self.console.is_terminal:
            self._spinner = self.console.status(text)
            self._spinner.start()
        else:
            self.console.print(text, highlight=False, soft_wrap=True)

    def watch(self, state: dict[str, Any]) -> None:
        """Show what has changed."""
        elapsed = self._clock() - self._started
        waiting = []
        for tag, model in state.get("models", {}).items():
            if model["state"] == "loading":
                waiting.append(tag)
                continue
            line = f"{tag} is ready after {elapsed:.1f} s"
            if model["state"] != "available":
                line = f"{tag} cannot be served: {model['reason']}"
            if self._shown.get(tag) != model["state"]:
                self._shown[tag] = model["state"]
                self.console.print(line, highlight=False, soft_wrap=True)
        if self._spinner is not None and waiting:
            self._spinner.update(f"loading {', '.join(waiting)} ({elapsed:.0f} s)")

    def ready(self, server: RunFile) -> None:
        """Say where the server is, and how to call it."""
        self.close()
        if self._as_json:
            click.echo(msgspec.json.encode(server).decode())
            return
        served = ", ".join(server.models) or "Services"
        click.echo(f"serving {served} at {server.http} (docs: {server.http}/docs)")
        if self._routes:
            click.echo(f"routes: {', '.join(self._routes)}")
        for tag in server.models[:1]:
            click.echo(f"try:  {curl(self.models[tag], server.http)}")
        click.echo("Ctrl-C stops.")

    def close(self) -> None:
        """Take the spinner away."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def curl(model: ModelSpec, http: str) -> str:
    """Return a command line that calls the model's default method over HTTP."""
    url = f"{http}/v1/models/{model.name}:predict"
    body = json.dumps(example_body(model))
    if len(body) > LONGEST_EXAMPLE:
        return f"curl -s {http}/v1/models/{model.name}/metadata  # says what the model takes"
    return f"curl -s {url} -H 'Content-Type: application/json' -d '{body}'"


def example_body(model: ModelSpec) -> dict[str, Any]:
    """Return a JSON body, in columnar form, that the default method accepts: zeros and ""."""
    name = model.default_method() or next(iter(model.methods))
    arguments = model.methods[name].arguments
    body = {"inputs": {argument.name: example_value(argument.spec) for argument in arguments}}
    return body if name == "__call__" else {"signature_name": name, **body}


def example_value(node: Node) -> Any:
    """Return what fits the specification as JSON, with one element where any size goes."""
    match node:
        case TensorSpec():
            return _example_tensor(node)
        case DictSpec(items=mapping):
            return {key: example_value(child) for key, child in mapping.items()}
        case ListSpec(items=items) | TupleSpec(items=items):
            return [example_value(child) for child in items]
        case NothingSpec():
            return None


def _example_tensor(tensor: TensorSpec) -> Any:
    value: Any = 0.0 if "float" in tensor.dtype else 0
    if tensor.dtype in ("string", "bool"):
        value = "" if tensor.dtype == "string" else False
    for size in reversed(tensor.shape or ()):
        value = [value] * (1 if size is None else size)
    return value

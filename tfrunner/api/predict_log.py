"""Writes down a share of a model's calls, over HTTP and by Services: `--monitor digits=0.1`.

Each is a line of the monitor that is called as the model: inputs and outputs, or the error's
code. What is written down is copied when the answer is there, and made into JSON in the thread
that writes.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson

from tfrunner.answer import Answer
from tfrunner.api.heads import Head
from tfrunner.api.predict import Submit, Submitted
from tfrunner.api.targets import Target
from tfrunner.casting import Call
from tfrunner.errors import TFRunnerError
from tfrunner.monitor_values import encode, shorten
from tfrunner.monitor_writer import Writer
from tfrunner.monitoring import REQUEST_ID, head, join_lines
from tfrunner.specs import MethodSpec, ModelSpec, leaves
from tfrunner.tensors import decode_layout, unpack
from tfrunner.values import in_python

OVERHEAD = 1000
"""Bytes that a record takes beside its values, about."""


class PredictLog:
    """Takes down calls of models.

    Args:
        shares: By name or tag, the share of a model's calls; 1: all.
        writer: Writes them.
        chance: Gives numbers from 0 to below 1.
    """

    def __init__(
        self, shares: Mapping[str, float], writer: Writer, *, chance: random.Random
    ) -> None:
        self._shares = shares
        self._writer = writer
        self._chance = chance

    def __repr__(self) -> str:
        return f"<PredictLog {dict(self._shares)}>"

    def around_predict(self, submit: Submit) -> Submit:
        """Return `Predict.submit` that lets `follow` know the request's id."""

        def submit_with_id(
            target: Target, head: Head, body: bytes, *, client: str = "", request_id: bytes = b""
        ) -> Submitted:
            token = REQUEST_ID.set(request_id.decode("latin-1"))
            try:
                return submit(target, head, body, client=client, request_id=request_id)
            finally:
                REQUEST_ID.reset(token)

        return submit_with_id

    def follow(
        self, future: asyncio.Future[Answer], model: ModelSpec, method: MethodSpec, call: Call
    ) -> None:
        """Take down a call, or not; see `Gateway.watch`."""
        share = self._shares.get(model.tag, self._shares.get(model.name, 0.0))
        if self._chance.random() < share:
            begin = head(REQUEST_ID.get())
            future.add_done_callback(partial(self._note, begin, model, method, call))

    def _note(
        self,
        begin: dict[str, bytes],
        model: ModelSpec,
        method: MethodSpec,
        call: Call,
        future: asyncio.Future[Answer],
    ) -> None:
        """Copy what there is: the buffers belong to others, who go on now."""
        if future.cancelled():
            return
        inputs = unpack(decode_layout(call.layout), call.bodies, call.rows)
        values: dict[str, Any] = {"inputs": copied(name_inputs(method, inputs))}
        error = future.exception()
        if error is None:
            values["outputs"] = copied(future.result().value())
        else:
            values["error"] = error.code if isinstance(error, TFRunnerError) else "internal"
        whose = {"version": model.version, "method": method.name, "rows": call.rows}
        begin = {**begin, **{key: orjson.dumps(value) for key, value in whose.items()}}
        self._writer.put(model.name, partial(_make, begin, values), size=OVERHEAD + _size(values))


def name_inputs(method: MethodSpec, arrays: list[Any]) -> Any:
    """Return inputs by the names of their arguments; those of no known variant as a list."""
    for variant in method.of_variants():
        counts = [sum(1 for _ in leaves(each.spec)) for each in variant.arguments]
        if sum(counts) == len(arrays):
            named, start = {}, 0
            for argument, count in zip(variant.arguments, counts, strict=True):
                named[argument.name] = in_python(argument.spec, arrays[start : start + count])
                start += count
            return named
    return arrays


def copied(value: Any) -> Any:
    """Return a copy of nested values; of a large array what stands for it."""
    if isinstance(value, np.ndarray):
        short = shorten(value)
        if short is not value:
            return short
        if not value.dtype.hasobject:
            return value.copy()
        # Text, or ragged: its rows may be views.
        return [copied(each) for each in value] if value.ndim else copied(value.item())
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(each) for each in value]
    return value


def _size(value: Any) -> int:
    """Return the bytes that copied values take, each text and array among them."""
    inner: Iterable[Any] = ()
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
    return sys.getsizeof(value) + sum(map(_size, inner))


def _make(begin: dict[str, bytes], values: dict[str, Any]) -> list[bytes]:
    """Return the line. Called in the thread that writes."""
    encoded = {name: [encode(value, name=name)] for name, value in values.items()}
    return join_lines(encoded, begin)

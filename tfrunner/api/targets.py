"""What the paths of predict requests stand for; kept for each path until the models change."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from tfrunner.api.json_body import FindMethod
from tfrunner.api.json_fast import FastReader, fast_reader
from tfrunner.errors import InvalidInput, TFRunnerError
from tfrunner.gateway import Gateway
from tfrunner.options import RunnerOptions, find_timeout
from tfrunner.specs import MethodSpec, ModelSpec

PATH = re.compile(r"/v1/models/([^/]+?)(?:/versions/([^/:]+))?:predict")
MOST_TARGETS = 1024
"""Most paths that are kept; one version of a model has several (serial, prefixes, latest)."""


class Target(NamedTuple):
    """What a path stands for; `fast` reads the JSON bodies of its default method.

    `options` say how long its calls may take, the most important first.
    """

    model: ModelSpec
    find_method: FindMethod
    fast: FastReader | None
    options: tuple[RunnerOptions, ...] = ()

    def timeout(self, method: MethodSpec, default: float) -> float:
        """Return how long a request may take that does not say, in seconds."""
        if not self.options:
            return default
        return find_timeout(self.options, method.name) or default


class Targets:
    """Finds what paths stand for.

    Args:
        gateway: Knows the models.
        options: By the tag of a model, what the configuration asks for it.
    """

    def __init__(
        self, gateway: Gateway, *, options: Mapping[str, tuple[RunnerOptions, ...]]
    ) -> None:
        self._gateway = gateway
        self._options = options
        self._known: dict[str, Target] = {}
        self._models: Mapping[str, ModelSpec] = {}

    def __repr__(self) -> str:
        return f"<Targets [{len(self._known)} paths]>"

    def known(self, path: str) -> Target | None:
        """Return what a path stands for, if it was asked for before."""
        if self._models is not self._gateway.models:
            self._models = self._gateway.models
            self._known = {}
        return self._known.get(path)

    def look_up(self, path: str) -> Target | None:
        """Return what a path stands for, None if it is nothing."""
        target = self.known(path)
        if target is None:
            with contextlib.suppress(TFRunnerError):
                target = self.find(path)
        return target

    def find(self, path: str) -> Target:
        """Return what a path stands for.

        Raises:
            InvalidInput: It has another form.
            NotFound: No such model or version is served; the message says what is.
        """
        target = self.known(path)
        if target is None:
            target = self._find(path)
            if len(self._known) >= MOST_TARGETS:
                self._known.clear()
            self._known[path] = target
        return target

    def _find(self, path: str) -> Target:
        match = PATH.fullmatch(path)
        if match is None:
            raise InvalidInput(
                f"Malformed request: POST {path}; expected "
                "/v1/models/<name>[/versions/<version>]:predict"
            )
        model = self._gateway.find(match[1], match[2])
        default = model.default_method()
        fast = fast_reader(model.methods[default]) if default is not None else None
        options = self._options.get(model.tag, ())
        return Target(model, lambda name: self._gateway.method(model, name), fast, options)

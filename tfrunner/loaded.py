"""What was written into a version's folder, loaded again: its methods, described and run.

Two ways: TensorFlow's restored object, and a session for what only the loader of TensorFlow 1
can load. Works only with TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from tfrunner.errors import CorruptModel, InvalidInput, NotFound, did_you_mean
from tfrunner.specs import MethodSpec
from tfrunner_workers import savedmodel, session_model, signatures
from tfrunner_workers.hosted import Method

log = logging.getLogger(__name__)

KERAS_INTERNALS = frozenset(
    {"call_and_return_all_conditional_losses", "call_and_return_conditional_losses"}
)


class Loaded(Protocol):
    """A SavedModel that was loaded to be described and tried."""

    def names(self) -> list[str]:
        """Return the methods that are served where nobody says which."""

    def describe(self, name: str, *, batchable: bool) -> MethodSpec:
        """Return what a method takes and gives."""

    def run(self, method: MethodSpec) -> Method:
        """Return a method as a function of arrays."""

    def close(self) -> None:
        """Let go of what it holds."""


class Restored:
    """TensorFlow's restored object.

    Args:
        restored: What `tf.saved_model.load` gave.
        is_foreign: Whether somebody else than `save` wrote it. Then its signatures are
            methods too where it has no functions, and what cannot be served is left out.
    """

    def __init__(self, restored: Any, *, is_foreign: bool) -> None:
        self._restored = restored
        self._is_foreign = is_foreign

    def names(self) -> list[str]:
        """Return its tf.functions; of a foreign one without any, its signatures."""
        found = [
            name
            for name in signatures.functions(self._restored)
            if hasattr(self._restored, name)  # else it is a signature alone
            and name not in KERAS_INTERNALS
            and (name == "__call__" or not name.startswith("_"))
        ]
        if not self._is_foreign:
            return found or ["__call__"]
        return self._served(found) or self._served(getattr(self._restored, "signatures", {}))

    def _served(self, names: Iterable[str]) -> list[str]:
        """Return those of a foreign model's functions that can be served."""
        served = []
        for name in names:
            try:
                self.describe(name, batchable=False)
                served.append(name)
            except InvalidInput as exc:
                log.warning("method %r is left out: %s", name, exc)
        return served

    def describe(self, name: str, *, batchable: bool) -> MethodSpec:
        """Return what a function takes and gives."""
        function = signatures.find(self._restored, name)
        return signatures.describe(function, name, batchable=batchable)

    def run(self, method: MethodSpec) -> Method:
        """Return a function as a function of arrays."""
        function = signatures.find(self._restored, method.name)
        return savedmodel.make_method(function, method, owner=self._restored)

    def close(self) -> None:
        """Do nothing: the object goes with its last user."""


class InSession:
    """Signatures that only a session can run.

    Args:
        folder: The SavedModel.
        methods: Its signatures.
    """

    def __init__(self, folder: Path, methods: dict[str, MethodSpec]) -> None:
        self._folder = folder
        self._methods = methods
        self._open: list[session_model.SessionModel] = []

    def names(self) -> list[str]:
        """Return its signatures."""
        return list(self._methods)

    def describe(self, name: str, *, batchable: bool) -> MethodSpec:
        """Return what a signature takes and gives."""
        if name not in self._methods:
            raise NotFound(
                f"The model has no signature {name!r}.{did_you_mean(name, self._methods)}"
            )
        return self._methods[name]

    def run(self, method: MethodSpec) -> Method:
        """Return a signature as a function of arrays."""
        model = session_model.load(self._folder, {method.name: method})
        self._open.append(model)
        return model.methods[method.name]

    def close(self) -> None:
        """End the sessions."""
        while self._open:
            self._open.pop().close()


def load(folder: Path, *, is_foreign: bool) -> Loaded:
    """Return a SavedModel, loaded as a worker will load it: in the first way that can.

    Args:
        folder: The SavedModel.
        is_foreign: Whether somebody else than `save` wrote it.

    Raises:
        CorruptModel: No way can, or it has nothing to serve; says why the usual way cannot.
    """
    if is_foreign and session_model.is_needed(folder):
        return InSession(folder, session_model.describe(folder))
    try:
        restored = Restored(savedmodel.restore(folder), is_foreign=is_foreign)
        if is_foreign and not restored.names():
            raise CorruptModel(
                f"{folder} has neither a tf.function nor a signature that can be served."
            )
    except CorruptModel as exc:
        if not is_foreign:
            raise
        try:
            return InSession(folder, session_model.describe(folder))
        except CorruptModel:
            raise exc from exc.__cause__
    return restored

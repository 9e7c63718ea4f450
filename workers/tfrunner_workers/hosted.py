"""What a worker hosts: a model's specification and its methods as plain functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tfrunner.specs import ModelSpec, Node
from tfrunner.tensors import Array

TEXT_LIMIT = 500
"""Most characters of a model's own error text that travel to callers."""


class Output(NamedTuple):
    """What a method returned.

    Args:
        arrays: The tensors, in the order of the structure's leaves.
        structure: How they are nested; its TensorSpecs carry the names where they are known.
    """

    arrays: list[Array]
    structure: Node


Method = Callable[[list[Array]], Output]
"""Takes the leaf arrays of all arguments, in `specs.leaves` order, with exact dtypes."""


class Hosted(Protocol):
    """A loaded model; the TensorFlow model and the echo model both offer this."""

    @property
    def spec(self) -> ModelSpec:
        """The model's specification."""

    @property
    def methods(self) -> dict[str, Method]:
        """The model's methods by name."""

    def example(self, method: str) -> list[Array] | None:
        """Return the inputs that were stored with the model for this method, if any."""


def describe(exc: BaseException) -> str:
    """Return class and text of an exception, shortened; the whole of it belongs in the log."""
    text = f"{type(exc).__name__}: {exc}".strip()
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 4] + " ..."

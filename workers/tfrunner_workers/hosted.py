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
    try:
        text = str(exc)
    except Exception as broken:  # a class of the user's own may be unable to say it
        text = f"its text cannot be had: {type(broken).__name__}"
    text = sendable(f"{type(exc).__name__}: {text}".strip())
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 4] + " ..."


def sendable(text: str) -> str:
    """Return text as it can travel: Python's may hold what is no character, as of file names."""
    return text.encode(errors="backslashreplace").decode()

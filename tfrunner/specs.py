"""What a model's methods take and give: nested structures of tensor specifications.

Pure data: no NumPy, no TensorFlow. Written by `save`, stored in `model.yaml`, sent to
gateways by the dispatcher (which does not open it), used by casting and by the OpenAPI page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

import msgspec

from tfrunner.errors import ProtocolError


class TensorSpec(msgspec.Struct, frozen=True, tag="tensor"):
    """One tensor.

    Args:
        name: The name that callers may use for it.
        dtype: NumPy's name of the dtype ("float32", "int64", "bool", ...) or "string".
        shape: Sizes, None where any size goes; None for any rank.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


class DictSpec(msgspec.Struct, frozen=True, tag="dict"):
    """A mapping with exactly these keys."""

    items: dict[str, Node]

    def __hash__(self) -> int:
        return hash(tuple(self.items.items()))


class ListSpec(msgspec.Struct, frozen=True, tag="list"):
    """A list of exactly these items."""

    items: tuple[Node, ...]


class TupleSpec(msgspec.Struct, frozen=True, tag="tuple"):
    """A tuple of exactly these items."""

    items: tuple[Node, ...]


class NothingSpec(msgspec.Struct, frozen=True, tag="nothing"):
    """None, where the model has no tensor."""


Node = Union[TensorSpec, DictSpec, ListSpec, TupleSpec, NothingSpec]


class Argument(msgspec.Struct, frozen=True):
    """One argument of a method, in the order of its definition."""

    name: str
    spec: Node


class MethodSpec(msgspec.Struct, frozen=True):
    """A named entry point of a model.

    Args:
        name: `__call__` by default.
        arguments: What it takes.
        output: What it gives; None where it could not be found out when saving.
        batchable: Whether rows of different requests may be run together.
        batch_dim: The axis that counts rows, of every input and of every output.
        repeatable: Whether a request may be run again after its worker was lost.
    """

    name: str
    arguments: tuple[Argument, ...]
    output: Node | None = None
    batchable: bool = False
    batch_dim: tuple[int, int] = (0, 0)
    repeatable: bool = True


class ModelSpec(msgspec.Struct, frozen=True):
    """One version of a model, as callers see it."""

    name: str
    version: str
    serial: int
    methods: dict[str, MethodSpec]
    labels: dict[str, str] = {}
    metadata: dict[str, Any] = {}

    @property
    def tag(self) -> str:
        """The tag `name:version`."""
        return f"{self.name}:{self.version}"

    def default_method(self) -> str | None:
        """Return `__call__`, or the only method, or None where the caller must choose."""
        if "__call__" in self.methods:
            return "__call__"
        return next(iter(self.methods)) if len(self.methods) == 1 else None


def leaves(node: Node) -> Iterator[TensorSpec]:
    """Yield the tensors of a structure, in the order of its definition."""
    match node:
        case TensorSpec():
            yield node
        case DictSpec(items=mapping):
            for child in mapping.values():
                yield from leaves(child)
        case ListSpec(items=items) | TupleSpec(items=items):
            for child in items:
                yield from leaves(child)


def rebuild(node: Node, take: Callable[[], Any]) -> Any:
    """Return Python's form of a structure, each tensor from one call of `take`."""
    match node:
        case TensorSpec():
            return take()
        case DictSpec(items=mapping):
            return {key: rebuild(child, take) for key, child in mapping.items()}
        case ListSpec(items=items):
            return [rebuild(child, take) for child in items]
        case TupleSpec(items=items):
            return tuple(rebuild(child, take) for child in items)
        case NothingSpec():
            return None


def shape_text(shape: Sequence[int | None] | None) -> str:
    """Return a shape as people write it: `[?, 5]`; `any rank` for None."""
    if shape is None:
        return "any rank"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def encode_spec(spec: ModelSpec) -> bytes:
    """Return a model's spec as gateways get it from the dispatcher."""
    return msgspec.msgpack.encode(spec)


def decode_spec(data: bytes) -> ModelSpec:
    """Return the spec that `encode_spec` made bytes of.

    Raises:
        ProtocolError: They hold none.
    """
    try:
        return msgspec.msgpack.decode(data, type=ModelSpec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(f"a model's spec was refused: {exc}") from exc

"""What a model's methods take and give: nested structures of tensor specifications.

Pure data: no NumPy, no TensorFlow. Written by `save`, stored in `model.yaml`, sent to
gateways by the dispatcher (which does not open it), used by casting and by the OpenAPI page.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Union

import msgspec

from tfrunner.errors import ProtocolError

ANY = "any"
"""The dtype of a value that has no specification: what a Runnable takes and gives."""


class TensorSpec(msgspec.Struct, frozen=True, tag="tensor", omit_defaults=True):
    """One tensor.

    Args:
        name: The name that callers may use for it.
        dtype: NumPy's name of the dtype ("float32", "int64", "bool", ...), "bfloat16",
            "string", or ANY.
        shape: Sizes, None where any size goes; None for any rank.
        ragged_rank: How many axes after the first have rows of different lengths; 0 for a
            dense tensor.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    ragged_rank: int = 0


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


class Argument(msgspec.Struct, frozen=True, omit_defaults=True):
    """One argument of a method, in the order of its definition.

    Args:
        name: What callers call it.
        spec: What it takes.
        default: What it is where it is not given, as `packing.pack` writes it; None: it must
            be given.
    """

    name: str
    spec: Node
    default: bytes | None = None


class Variant(msgspec.Struct, frozen=True):
    """A further signature of a polymorphic method: another trace of its function."""

    arguments: tuple[Argument, ...]
    output: Node | None = None


class Padding(msgspec.Struct, frozen=True):
    """How an input of variable length is filled up, so that requests can be merged.

    Args:
        input: Name of the input tensor.
        axis: The axis that is filled up.
        value: What it is filled with.
        buckets: Lengths to fill up to, ascending; none given: powers of two, from 8.
    """

    input: str
    axis: int
    value: float | int | bool | str = 0
    buckets: tuple[int, ...] = ()


class Cut(msgspec.Struct, frozen=True):
    """An output axis that is cut back to the length that an input had before padding."""

    output: str
    axis: int
    like: str


class MethodSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named entry point of a model.

    Args:
        name: `__call__` by default.
        arguments: What it takes.
        output: What it gives; None where it could not be found out when saving.
        batchable: Whether rows of different requests may be run together.
        batch_dim: The axis that counts rows, of every input and of every output.
        repeatable: Whether a request may be run again after its worker was lost.
        variants: Other signatures of a polymorphic function.
        lenient: Whether values are cast as Keras casts them: any number to any number.
        padding: Inputs that are filled up to common lengths.
        cuts: Outputs that are cut back to their own lengths.
    """

    name: str
    arguments: tuple[Argument, ...]
    # Factories, so that these are written out where they have their defaults too.
    output: Node | None = msgspec.field(default_factory=lambda: None)
    batchable: bool = msgspec.field(default_factory=lambda: False)
    batch_dim: tuple[int, int] = msgspec.field(default_factory=lambda: (0, 0))
    repeatable: bool = msgspec.field(default_factory=lambda: True)
    variants: tuple[Variant, ...] = ()
    lenient: bool = False
    padding: tuple[Padding, ...] = ()
    cuts: tuple[Cut, ...] = ()

    @property
    def inputs(self) -> list[TensorSpec]:
        """The tensors that it takes, in the order in which they travel."""
        return [leaf for argument in self.arguments for leaf in leaves(argument.spec)]

    def of_variants(self) -> Iterator[MethodSpec]:
        """Yield the method once for each of its signatures, each without the others."""
        if not self.variants:
            yield self
            return
        yield msgspec.structs.replace(self, variants=())
        for each in self.variants:
            yield msgspec.structs.replace(
                self, arguments=each.arguments, output=each.output, variants=()
            )


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
        """Return the method that is called where none is named. See `default_method`."""
        return default_method(self.methods)


def default_method(names: Collection[str]) -> str | None:
    """Return the method of these that is called where none is named.

    The first there is of `__call__`, the only method, `serving_default` (of a SavedModel that
    somebody else exported), `predict` (of a Keras model); None where the caller must choose.
    """
    if "__call__" not in names and len(names) == 1:
        return next(iter(names))
    wanted = ("__call__", "serving_default", "predict")
    return next((name for name in wanted if name in names), None)


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


def tuple_paths(node: Node, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield where the tuples of a structure stand, inner ones first; () is the structure itself."""
    match node:
        case DictSpec(items=mapping):
            for key, child in mapping.items():
                yield from tuple_paths(child, (*path, key))
        case ListSpec(items=items) | TupleSpec(items=items):
            for index, child in enumerate(items):
                yield from tuple_paths(child, (*path, index))
            if isinstance(node, TupleSpec):
                yield path


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

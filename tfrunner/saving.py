"""What `save` is told, checked before anything is written."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tfrunner.errors import InvalidInput, did_you_mean
from tfrunner.lengths import (
    CutOptions,
    PaddingOptions,
    apply_lengths,
    check_cuts,
    check_padding,
)
from tfrunner.remarks import remark
from tfrunner.specs import MethodSpec, TensorSpec, leaves, shape_text


class MethodOptions(msgspec.Struct, frozen=True):
    """What `signatures` says about one method."""

    batchable: bool = False
    batch_dim: tuple[int, int] = (0, 0)
    padding: dict[str, PaddingOptions] = {}
    cuts: dict[str, CutOptions] = {}


_ALIASES = {"batchdim": "batch_dim"}
_KEYS = ("batchable", "batch_dim", "padding", "cut")


def check_signatures(signatures: Mapping[str, Any] | None) -> dict[str, MethodOptions] | None:
    """Return `signatures` by method; None where none were given.

    Raises:
        InvalidInput: A key is unknown, or a value is of the wrong kind.
    """
    if signatures is None:
        return None
    if not isinstance(signatures, Mapping) or not signatures:
        raise InvalidInput(
            'signatures must name at least one method, as {"__call__": {"batchable": True}}; '
            f"got {signatures!r}."
        )
    return {name: _check_options(name, options) for name, options in signatures.items()}


def _check_options(name: Any, options: Any) -> MethodOptions:
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise InvalidInput(
            f'signatures maps a method to a dict such as {{"batchable": True, "batch_dim": 0}}; '
            f"got {name!r}: {options!r}."
        )
    given: dict[str, Any] = {}
    for key, value in options.items():
        known = _ALIASES.get(key, key)
        if known not in _KEYS:
            raise InvalidInput(
                f"signatures[{name!r}] has an unknown key {key!r}.{did_you_mean(str(key), _KEYS)}"
            )
        if known in given:
            raise InvalidInput(f"signatures[{name!r}] gives {known!r} twice.")
        given[known] = value
    batchable = given.get("batchable", False)
    if not isinstance(batchable, bool):
        raise InvalidInput(f"batchable of {name!r} is {batchable!r}; expected True or False.")
    return MethodOptions(
        batchable,
        _check_batch_dim(name, given.get("batch_dim", 0)),
        check_padding(name, given.get("padding", {})),
        check_cuts(name, given.get("cut", {})),
    )


def _check_batch_dim(name: str, value: Any) -> tuple[int, int]:
    axes = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(axes) != 2 or not all(type(axis) is int and axis >= 0 for axis in axes):
        raise InvalidInput(
            f"batch_dim of {name!r} is {value!r}; expected an axis, counted from 0, "
            "or a pair (input axis, output axis)."
        )
    return axes[0], axes[1]


def apply_options(method: MethodSpec, options: MethodOptions) -> MethodSpec:
    """Return the method as `signatures` wants it.

    Raises:
        InvalidInput: It shall be batchable, but its inputs or outputs cannot carry rows; or an
            input cannot be filled up as it shall be.
    """
    if options.batchable:
        _check_batchable(method, options.batch_dim)
    chosen = msgspec.structs.replace(
        method, batchable=options.batchable, batch_dim=options.batch_dim
    )
    return apply_lengths(chosen, options.padding, options.cuts)


def _check_batchable(method: MethodSpec, batch_dim: tuple[int, int]) -> None:
    into, out = batch_dim
    inputs = [leaf for argument in method.arguments for leaf in leaves(argument.spec)]
    carriers = [leaf for leaf in inputs if leaf.shape is None or leaf.shape]
    if not carriers:
        raise InvalidInput(
            f"method {method.name!r} cannot be batchable: it has no input with a batch axis. "
            "Save it with batchable=False."
        )
    for leaf in carriers:
        _check_axis(leaf, into, f"input {leaf.name!r} of method {method.name!r}")
    for leaf in leaves(method.output) if method.output is not None else ():
        _check_axis(leaf, out, f"output {leaf.name!r} of method {method.name!r}")


def _check_axis(leaf: TensorSpec, axis: int, at: str) -> None:
    """Check that a tensor can have any number of rows on an axis."""
    if leaf.ragged_rank and axis != 0:
        raise InvalidInput(
            f"{at} is ragged: its rows are on axis 0, so they cannot be merged on axis {axis}. "
            "Use batch_dim 0, or save the method with batchable=False."
        )
    if leaf.shape is None:
        return
    if len(leaf.shape) <= axis:
        raise InvalidInput(
            f"{at} has shape {shape_text(leaf.shape)}, so it has no rows on axis {axis}. "
            "Save the method with batchable=False, or give another batch_dim."
        )
    if leaf.shape[axis] is not None:
        wanted = shape_text((*leaf.shape[:axis], None, *leaf.shape[axis + 1 :]))
        raise InvalidInput(
            f"{at} has shape {shape_text(leaf.shape)}: axis {axis} is fixed, so rows cannot be "
            f"merged. Write it as {wanted} (None in the tf.TensorSpec), or save with "
            "batchable=False."
        )


def check_labels(labels: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return the labels as text; others than text are converted with a warning.

    Raises:
        InvalidInput: They are no dict.
    """
    checked = {}
    for key, value in _check_dict(labels, "labels").items():
        if not isinstance(key, str) or not isinstance(value, str):
            remark(f"label {key!r}: {value!r} was converted to text")
        checked[str(key)] = str(value)
    return checked


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as plain data.

    Raises:
        InvalidInput: It is no dict, or holds something that YAML cannot.
    """
    checked: dict[str, Any] = plain(_check_dict(metadata, "metadata"))
    return checked


def _check_dict(value: Any, name: str) -> Mapping[Any, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInput(
            f'{name} is a {type(value).__name__}; expected a dict, such as {{"team": "vision"}}.'
        )
    return value or {}


def plain(value: Any, at: str = "metadata") -> Any:
    """Return metadata as plain data; NumPy values become numbers and lists.

    Raises:
        InvalidInput: It holds something that YAML cannot.
    """
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), at)
    if isinstance(value, np.generic):
        return plain(value.item(), at)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_plain_key(key, at): plain(child, f"{at}[{key!r}]") for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child, f"{at}[{index}]") for index, child in enumerate(value)]
    raise InvalidInput(
        f"{at} is a {type(value).__name__}; expected text, numbers, lists, dicts or NumPy arrays."
    )


def _plain_key(key: Any, at: str) -> str:
    if not isinstance(key, str):
        raise InvalidInput(f"{at} has the key {key!r}; expected text.")
    return key

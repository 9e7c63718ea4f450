"""What `signatures` says about inputs of variable length: how they are filled up and cut back.

Checked twice: by itself, and against the method once that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tfrunner.errors import InvalidInput, did_you_mean
from tfrunner.specs import Cut, MethodSpec, Padding, TensorSpec, leaves, shape_text
from tfrunner.tensors import DTYPES, STRING


class PaddingOptions(msgspec.Struct, frozen=True):
    """What `signatures` says about one input; no value: zero, False, or empty text."""

    axis: int
    value: Any = None
    buckets: tuple[int, ...] = ()


class CutOptions(msgspec.Struct, frozen=True):
    """What `signatures` says about one output."""

    axis: int
    like: str


def check_padding(method: str, value: Any) -> dict[str, PaddingOptions]:
    """Return the key "padding" of a method's options, by input.

    Raises:
        InvalidInput: It has an unknown key, or a value of the wrong kind.
    """
    form = '{"padding": {input: {"axis": 1, "value": 0, "buckets": [16, 32]}}}'
    checked = {}
    for name, given in _by_name(method, "padding", value, form).items():
        at = f"padding of input {name!r} of {method!r}"
        _check_keys(at, given, ("axis", "value", "buckets"), form)
        buckets = _check_buckets(at, given["buckets"]) if "buckets" in given else ()
        checked[name] = PaddingOptions(_check_axis(at, given, form), given.get("value"), buckets)
    return checked


def check_cuts(method: str, value: Any) -> dict[str, CutOptions]:
    """Return the key "cut" of a method's options, by output.

    Raises:
        InvalidInput: It has an unknown key, or a value of the wrong kind.
    """
    form = '{"cut": {output: {"axis": 1, "like": input}}}'
    checked = {}
    for name, given in _by_name(method, "cut", value, form).items():
        at = f"cut of output {name!r} of {method!r}"
        _check_keys(at, given, ("axis", "like"), form)
        like = given.get("like")
        if not isinstance(like, str):
            raise InvalidInput(f"{at}: 'like' is {like!r}; expected the name of a padded input.")
        checked[name] = CutOptions(_check_axis(at, given, form), like)
    return checked


def _by_name(method: str, key: str, value: Any, form: str) -> Mapping[str, Mapping[str, Any]]:
    is_right = isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(given, Mapping) for name, given in value.items()
    )
    if not is_right:
        raise InvalidInput(f"{key} of {method!r} is {value!r}; expected {form}.")
    checked: Mapping[str, Mapping[str, Any]] = value
    return checked


def _check_keys(at: str, given: Mapping[str, Any], known: tuple[str, ...], form: str) -> None:
    for key in given:
        if key not in known:
            near = did_you_mean(str(key), known)
            raise InvalidInput(f"{at} has an unknown key {key!r}.{near} Expected {form}.")


def _check_axis(at: str, given: Mapping[str, Any], form: str) -> int:
    axis = given.get("axis")
    if type(axis) is not int or axis < 0:
        raise InvalidInput(f"{at}: 'axis' is {axis!r}; expected {form}, axes counted from 0.")
    return axis


def _check_buckets(at: str, value: Any) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (list, tuple)) else ()
    is_right = bool(sizes) and all(type(size) is int and size > 0 for size in sizes)
    if not is_right or list(sizes) != sorted(set(sizes)):
        raise InvalidInput(
            f"{at}: 'buckets' is {value!r}; expected lengths in ascending order, as [16, 32]."
        )
    return sizes


def apply_lengths(
    method: MethodSpec,
    padding: Mapping[str, PaddingOptions],
    cuts: Mapping[str, CutOptions],
) -> MethodSpec:
    """Return the method with its inputs filled up, and its outputs cut back.

    Args:
        method: As it is otherwise.
        padding: By input.
        cuts: By output.

    Raises:
        InvalidInput: An input or output does not exist, or cannot be filled up or cut so.
    """
    if not padding and not cuts:
        return method
    if not method.batchable:
        raise InvalidInput(
            f"method {method.name!r} has padding or cut, but is not batchable: there is nothing "
            'to gain. Add "batchable": True.'
        )
    if method.variants:
        raise InvalidInput(
            f"method {method.name!r} has several signatures; padding and cut need one. Give its "
            "tf.function one input_signature."
        )
    filled = tuple(_padding(method, name, given) for name, given in padding.items())
    kept = tuple(_cut(method, name, given, padding) for name, given in cuts.items())
    return msgspec.structs.replace(method, padding=filled, cuts=kept)


def _padding(method: MethodSpec, name: str, given: PaddingOptions) -> Padding:
    at = f"padding of input {name!r} of {method.name!r}"
    leaf = _find(at, name, method.inputs, "input")
    if leaf.ragged_rank:
        raise InvalidInput(f"{at}: it is ragged, and needs no padding to be batched.")
    _check_open(at, leaf, given.axis, method.batch_dim[0])
    return Padding(name, given.axis, _value(at, leaf, given.value), given.buckets)


def _cut(
    method: MethodSpec, name: str, given: CutOptions, padding: Mapping[str, PaddingOptions]
) -> Cut:
    at = f"cut of output {name!r} of {method.name!r}"
    if given.like not in padding:
        raise InvalidInput(
            f"{at} is to be like {given.like!r}, which is no padded input."
            f"{did_you_mean(given.like, padding)}"
        )
    if method.output is not None:
        leaf = _find(at, name, list(leaves(method.output)), "output")
        _check_open(at, leaf, given.axis, method.batch_dim[1])
    return Cut(name, given.axis, given.like)


def _find(at: str, name: str, specs: list[TensorSpec], kind: str) -> TensorSpec:
    found = [spec for spec in specs if spec.name == name]
    if not found:
        near = did_you_mean(name, {spec.name for spec in specs})
        raise InvalidInput(f"{at}: there is no such {kind}.{near}")
    if len(found) > 1:
        raise InvalidInput(
            f"{at}: {len(found)} {kind}s have that name; give their tf.TensorSpecs names."
        )
    return found[0]


def _check_open(at: str, leaf: TensorSpec, axis: int, batch_axis: int) -> None:
    """Check that an axis can have any length, and does not count rows."""
    if axis == batch_axis:
        raise InvalidInput(f"{at}: axis {axis} is the batch axis; expected another.")
    if leaf.shape is None:
        return
    if len(leaf.shape) <= axis:
        raise InvalidInput(f"{at}: there is no axis {axis} in shape {shape_text(leaf.shape)}.")
    if leaf.shape[axis] is not None:
        raise InvalidInput(
            f"{at}: axis {axis} of shape {shape_text(leaf.shape)} is fixed, so its length does "
            "not vary. Write None in the tf.TensorSpec."
        )


def _value(at: str, leaf: TensorSpec, value: Any) -> float | int | bool | str:
    """Return what an input is filled up with, checked against its dtype."""
    if leaf.dtype == STRING:
        if not isinstance(value, (str, type(None))):
            raise InvalidInput(f"{at}: 'value' is {value!r}; expected text, as the input.")
        return value or ""
    kind = DTYPES[leaf.dtype].kind
    plain: Any = value.item() if isinstance(value, np.generic) else value
    if plain is None:
        return False if kind == "b" else 0
    if isinstance(plain, bool) != (kind == "b") or not isinstance(plain, (bool, int, float)):
        raise InvalidInput(f"{at}: 'value' is {value!r}; expected {leaf.dtype}, as the input.")
    if kind in "iu":
        limits = np.iinfo(leaf.dtype)
        if not isinstance(plain, int) or not limits.min <= plain <= limits.max:
            raise InvalidInput(
                f"{at}: 'value' is {value!r}; expected a whole number that {leaf.dtype} holds."
            )
    chosen: float | int | bool = plain
    return chosen

"""Answers as JSON: TensorFlow Serving's `predictions` (by rows) and `outputs` (whole tensors).

One numeric array is written at once. Everything else, and what orjson wrote with a null (it
has no other form for NaN and Infinity), is put together from its tensors.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from tfrunner.answer import Answer
from tfrunner.api.json_text import NUMPY, write, write_numbers
from tfrunner.errors import InvalidInput
from tfrunner.objects import from_any
from tfrunner.ragged import to_lists
from tfrunner.specs import (
    ANY,
    DictSpec,
    ListSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    leaves,
    rebuild,
)
from tfrunner.tensors import BFLOAT16, Array


def write_answer(answer: Answer, *, by_rows: bool) -> bytes:
    """Return the JSON body of an answer.

    Args:
        answer: What the model returned.
        by_rows: Whether it was asked in row form.

    Raises:
        InvalidInput: JSON cannot hold it, or it has no rows; the message names another form.
    """
    arrays = answer.arrays
    if len(arrays) == 1 and (not by_rows or arrays[0].shape):
        array = arrays[0]
        if array.shape and array.dtype.kind in "fiub" and array.flags.c_contiguous:
            data = orjson.dumps({"predictions" if by_rows else "outputs": array}, option=NUMPY)
            if b"null" not in data:
                return data
    named = name_outputs(answer.structure)
    values = [fragments(array, spec) for array, spec in _pairs(answer)]
    if not by_rows:
        return orjson.dumps({"outputs": _whole(answer.structure, named, values)})
    return orjson.dumps({"predictions": _by_rows(answer, named)})


def name_outputs(structure: Node) -> dict[str, Node] | None:
    """Return an answer's outputs by name; None where there is only one, which needs none.

    A dict's keys are the names. Items of a tuple or list have their tensor's name where all
    have different ones, else `output_0`, `output_1`, ...
    """
    if sum(1 for _ in leaves(structure)) == 1:
        return None
    match structure:
        case DictSpec(items=mapping):
            return dict(mapping)
        case ListSpec(items=items) | TupleSpec(items=items):
            names = [child.name if isinstance(child, TensorSpec) else "" for child in items]
            if "" in names or len(set(names)) != len(names):
                names = [f"output_{index}" for index in range(len(items))]
            return dict(zip(names, items, strict=True))
    return {}


def _pairs(answer: Answer) -> Iterator[tuple[Array, TensorSpec]]:
    return zip(answer.arrays, leaves(answer.structure), strict=True)


def _whole(structure: Node, named: dict[str, Node] | None, values: list[Any]) -> Any:
    """Return the value of "outputs"; `values` are the tensors in order, ready to write."""
    take = iter(values)
    if isinstance(structure, NothingSpec):
        return None
    if named is None:
        return values[0]
    return {name: rebuild(child, take.__next__) for name, child in named.items()}


def _by_rows(answer: Answer, named: dict[str, Node] | None) -> list[Any]:
    """Return the value of "predictions": a value or an object for each row."""
    rows = _count_rows(answer)
    columns = [
        [fragments(array[row], spec, is_row=True) for row in range(rows)]
        for array, spec in _pairs(answer)
    ]
    if named is None:
        return columns[0]
    written = []
    for row in range(rows):
        take = iter([column[row] for column in columns])
        written.append({name: rebuild(child, take.__next__) for name, child in named.items()})
    return written


def _count_rows(answer: Answer) -> int:
    rows: int | None = None
    for array, spec in _pairs(answer):
        if not array.shape:
            raise InvalidInput(
                f"Tensor name: {spec.name} has no shape information: it has no rows. "
                "Send 'inputs' instead of 'instances'."
            )
        if rows is not None and array.shape[0] != rows:
            raise InvalidInput(
                f"Tensor name: {spec.name} has inconsistent batch size: {array.shape[0]} "
                f"expecting: {rows}. Send 'inputs' instead of 'instances'."
            )
        rows = array.shape[0]
    return rows or 0


def fragments(array: Any, spec: TensorSpec, *, is_row: bool = False) -> Any:
    """Return one tensor (or one row of it) in a form that orjson writes exactly.

    Text that is UTF-8 becomes a JSON string, other bytes `{"b64": ...}`, as does everything of
    an output whose name ends in `_bytes`. A ragged tensor becomes lists of different lengths.

    Raises:
        InvalidInput: It is of a dtype that JSON has no form for.
    """
    if spec.dtype == ANY:
        return _plain_value(from_any(array) if isinstance(array, np.ndarray) else array, spec)
    if spec.ragged_rank > is_row:
        return to_lists(array, lambda part: _dense(part, spec.name), spec.ragged_rank - is_row)
    return _dense(array, spec.name)


def _plain_value(value: Any, spec: TensorSpec) -> Any:
    try:
        return orjson.Fragment(write(value))
    except (TypeError, ValueError) as exc:
        raise InvalidInput(
            f"output {spec.name!r} has no form in JSON: {exc}. "
            "Ask with Content-Type application/x-msgpack."
        ) from exc


def _dense(array: Any, name: str) -> Any:
    array = np.asarray(array, dtype=object) if isinstance(array, (bytes, str)) else array
    if array.dtype.kind in "OSU":
        return _texts(array.tolist(), always=name.endswith("_bytes"))
    if array.dtype == BFLOAT16:
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise InvalidInput(
            f"output {name!r} has dtype {array.dtype.name}, which JSON has no form for. "
            "Ask with Content-Type application/x-msgpack."
        )
    return orjson.Fragment(write_numbers(array))


def _texts(value: Any, *, always: bool) -> Any:
    if isinstance(value, list):
        return [_texts(item, always=always) for item in value]
    if isinstance(value, bytes):
        if not always:
            try:
                return value.decode()
            except UnicodeDecodeError:
                pass
        return {"b64": base64.b64encode(value).decode()}
    return {"b64": base64.b64encode(value.encode()).decode()} if always else value

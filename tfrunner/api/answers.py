"""What the forms of answers share: the written body, and the one tensor that some forms hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfrunner.answer import Answer
from tfrunner.errors import InvalidInput, NotAcceptable, UnsupportedForm
from tfrunner.protocol import Buffer
from tfrunner.specs import ANY, MethodSpec, Node, TensorSpec, leaves
from tfrunner.tensors import STRING, Array

NUMBERS = "biufc"
"""Kinds of NumPy dtypes that are numbers or booleans; bfloat16 is none of NumPy's own."""

OTHERS = "application/x-msgpack, which holds everything"

MOST_PLACES = 2**48
"""What the sizes of an array without elements, the zeros apart, may multiply to: NumPy and
TensorFlow count them in 63 bits, also after a cast and after rows are joined."""


class Written(NamedTuple):
    """The body of an answer in pieces, and the headers that belong to it."""

    pieces: tuple[Buffer, ...]
    headers: tuple[tuple[bytes, bytes], ...] = ()


def array_bytes(array: Array) -> Buffer:
    """Return an array's bytes, little-endian and in C order, without a copy if they are so."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if not array.size:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def check_input(method: MethodSpec, form: str) -> None:
    """Check that a method can be called with a single tensor of numbers.

    Raises:
        UnsupportedForm: The method needs several, or one that is no plain tensor.
    """
    needed = [each for each in method.arguments if each.default is None]
    first = method.arguments[0].spec if method.arguments else None
    if len(needed) > 1 or not isinstance(first, TensorSpec):
        names = ", ".join(each.name for each in method.arguments) or "none"
        raise UnsupportedForm(
            f"{form} is one tensor; {method.name} has the inputs: {names}. Send "
            f"application/x-npz, or {OTHERS}."
        )
    if not method.variants:  # another one may take numbers
        check_dense(first, form, "input")


def check_booleans(array: Array) -> Array:
    """Return an array that came as bytes; refuse booleans that are neither 0 nor 1.

    Raises:
        InvalidInput: There are some; what computes with them may do anything.
    """
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise InvalidInput("the array is of booleans and holds bytes other than 0 and 1.")
    return array


def check_sizes(sizes: Sequence[int]) -> None:
    """Refuse a shape with a zero that no array can have; others are bounded by their bytes.

    Raises:
        InvalidInput: It is one.
    """
    if 0 in sizes and math.prod(size for size in sizes if size) > MOST_PLACES:
        raise InvalidInput(
            f"the array has shape {list(sizes)}, which is too large, though it has no elements."
        )


def check_dense(spec: TensorSpec, form: str, role: str) -> None:
    """Check that a tensor is of numbers and neither ragged nor of any kind.

    Raises:
        UnsupportedForm: An input is not.
        NotAcceptable: An output is not.
    """
    if spec.dtype not in (STRING, ANY) and not spec.ragged_rank:
        return
    kind = "ragged" if spec.ragged_rank else "text" if spec.dtype == STRING else "any value"
    error = UnsupportedForm if role == "input" else NotAcceptable
    verb = "Send" if role == "input" else "Accept"
    raise error(
        f"{form} holds numbers; {role} {spec.name!r} is {kind}. {verb} application/json, or "
        f"{OTHERS}."
    )


def check_output(
    output: Node | None, form: str, *, single: bool, arrays: Sequence[Array] | None = None
) -> None:
    """Check that outputs can be answered with; before the call unknown ones are let through.

    Args:
        output: What is known of them.
        form: The form of the answer.
        single: Whether it holds one tensor alone.
        arrays: The outputs themselves. A Runnable says of none what it is: they show it.

    Raises:
        NotAcceptable: They cannot.
    """
    if output is None:
        return
    specs = list(leaves(output))
    if single and len(specs) != 1:
        raise NotAcceptable(
            f"{form} is one tensor; there are {len(specs)} outputs. Accept application/x-npz, or "
            f"{OTHERS}."
        )
    for index, spec in enumerate(specs):
        if spec.dtype != ANY or (arrays is not None and arrays[index].dtype.hasobject):
            check_dense(spec, form, "output")


def check_answer(answer: Answer, form: str, *, single: bool = False) -> None:
    """Check that an answer's outputs are of numbers.

    Raises:
        NotAcceptable: They are not, or are several where one is asked for.
    """
    check_output(answer.structure, form, single=single, arrays=answer.arrays)


def only_output(answer: Answer, form: str) -> Array:
    """Return the one tensor of an answer.

    Raises:
        NotAcceptable: There are several, or it is none of numbers.
    """
    check_answer(answer, form, single=True)
    return answer.arrays[0]

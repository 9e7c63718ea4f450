"""`application/octet-stream` bodies: a tensor's bytes, little-endian and in C order.

The headers X-Tensor-Dtype (`float32`) and X-Tensor-Shape (`2,5`; empty for a single value) say
what they are, in requests and in answers.
"""

from __future__ import annotations

import math

import numpy as np

from tfrunner.answer import Answer
from tfrunner.api.answers import (
    Written,
    array_bytes,
    check_booleans,
    check_input,
    check_output,
    check_sizes,
    only_output,
)
from tfrunner.casting import Call, cast
from tfrunner.errors import InvalidInput
from tfrunner.specs import MethodSpec
from tfrunner.tensors import DTYPES, Array

NAME = "application/octet-stream"
NUMERIC = {name.encode(): dtype for name, dtype in DTYPES.items() if not dtype.hasobject}
MOST_AXES = 32
MOST_DIGITS = 15


def read_raw(body: bytes, method: MethodSpec, *, dtype: bytes | None, shape: bytes | None) -> Call:
    """Return the call of a method with the tensor of a body.

    Args:
        body: The tensor's bytes.
        method: What is called.
        dtype: The header X-Tensor-Dtype.
        shape: The header X-Tensor-Shape.

    Raises:
        UnsupportedForm: The method has several inputs, or one that is not of numbers.
        InvalidInput: A header is missing or wrong, or the tensor does not fit the method.
    """
    check_input(method, NAME)
    return cast(method, (parse_raw(body, dtype=dtype, shape=shape),), {})


def parse_raw(body: bytes, *, dtype: bytes | None, shape: bytes | None) -> Array:
    """Return the tensor of a body, as a view of it.

    Raises:
        InvalidInput: A header is missing or wrong, or the body is of another length.
    """
    if dtype is None or shape is None:
        raise InvalidInput(
            f"a body of {NAME} needs the headers X-Tensor-Dtype (as float32) and X-Tensor-Shape "
            "(as 2,5). Send JSON with Content-Type application/json."
        )
    known = NUMERIC.get(dtype.strip().lower())
    if known is None:
        raise InvalidInput(
            f"X-Tensor-Dtype is {dtype.decode('latin-1')!r}; expected one of: "
            f"{', '.join(name.decode() for name in NUMERIC)}."
        )
    sizes = _sizes(shape)
    expected = math.prod(sizes) * known.itemsize
    if len(body) != expected:
        raise InvalidInput(
            f"the tensor is {'cut off' if len(body) < expected else 'too long'}: {known.name} of "
            f"shape {list(sizes)} has {expected} bytes, {len(body)} came."
        )
    check_sizes(sizes)
    flat: Array = np.frombuffer(body, known)
    return check_booleans(flat).reshape(sizes)


def _sizes(shape: bytes) -> tuple[int, ...]:
    texts = [text.strip() for text in shape.split(b",")] if shape.strip() else []
    if len(texts) > MOST_AXES or not all(
        text.isdigit() and len(text) <= MOST_DIGITS for text in texts
    ):
        raise InvalidInput(
            f"X-Tensor-Shape is {shape.decode('latin-1')!r}; expected sizes with commas between "
            "them, as 2,5."
        )
    return tuple(int(text) for text in texts)


def check_raw(method: MethodSpec) -> None:
    """Refuse a method whose outputs are not one tensor of numbers.

    Raises:
        NotAcceptable: They are not.
    """
    check_output(method.output, NAME, single=True)


def write_raw(answer: Answer, by_rows: bool) -> Written:
    """Return the body of an answer and its headers; the tensor's bytes are not copied.

    Raises:
        NotAcceptable: It is not one tensor of numbers.
    """
    array = only_output(answer, NAME)
    shape = ",".join(map(str, array.shape))
    headers = ((b"x-tensor-dtype", array.dtype.name.encode()), (b"x-tensor-shape", shape.encode()))
    return Written((array_bytes(array),), headers)

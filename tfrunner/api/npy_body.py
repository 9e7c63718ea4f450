"""`application/x-npy` bodies: one array, as `numpy.save` writes it. Nothing is ever unpickled.

The format is NumPy's own: a magic string, a version, and the text of a dict with dtype, order
and shape, then the bytes (NumPy, `numpy.lib.format`).
"""

from __future__ import annotations

import functools
import io
import math
import re
from typing import Any, NamedTuple

import numpy as np

from tfrunner.answer import Answer
from tfrunner.api.answers import (
    NUMBERS,
    Written,
    array_bytes,
    check_booleans,
    check_input,
    check_output,
    check_sizes,
    only_output,
)
from tfrunner.casting import Call, cast
from tfrunner.errors import InvalidInput, NotAcceptable
from tfrunner.specs import MethodSpec
from tfrunner.tensors import Array

NAME = "application/x-npy"
MAGIC = b"\x93NUMPY"
LONGEST_HEAD = 10_000
"""Bytes of the dict; NumPy's own limit."""

VERSIONS = {(1, 0): 2, (2, 0): 4}
"""How many bytes the length of the dict takes."""

FIELD = re.compile(
    r"""[\s{]*(?P<quote>['"])(?P<name>descr|fortran_order|shape)(?P=quote)\s*:\s*
    (?:(?P<order>True|False)|['"](?P<descr>[^'"]{0,40})['"]
    |\((?P<shape>\s*(?:\d{1,15}\s*,\s*){0,31}(?:\d{1,15}\s*)?)\))\s*,?\s*""",
    re.VERBOSE | re.ASCII,
)
"""One entry of the dict, and a comma after it. Nothing is evaluated."""

NUMERIC = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)")


class NpyHead(NamedTuple):
    """What stands before the bytes of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool


def read_npy(body: bytes, method: MethodSpec) -> Call:
    """Return the call of a method with the array of a body.

    Raises:
        UnsupportedForm: The method has several inputs, or one that is not of numbers.
        InvalidInput: The body is no such array, is cut off, or does not fit the method.
    """
    check_input(method, NAME)
    return cast(method, (parse_npy(body),), {})


def parse_npy(body: bytes) -> Array:
    """Return the array of a body, as a view of it.

    Raises:
        InvalidInput: It is none, is of another length than it says, or not of numbers.
    """
    begin, size = _head_place(body)
    head = _read_head(body[begin:size])
    expected = size + math.prod(head.shape) * head.dtype.itemsize
    if len(body) != expected:
        raise InvalidInput(
            f"the array is {'cut off' if len(body) < expected else 'too long'}: its head asks for "
            f"{expected} bytes ({head.dtype.name}, shape {list(head.shape)}), {len(body)} came."
        )
    check_sizes(head.shape)
    flat: Array = np.frombuffer(body, head.dtype, math.prod(head.shape), size)
    return check_booleans(flat).reshape(head.shape, order="F" if head.is_fortran else "C")


def _head_place(body: bytes) -> tuple[int, int]:
    """Return where the text of the head begins, and where the array's bytes do."""
    version = tuple(body[len(MAGIC) : len(MAGIC) + 2])
    if not body.startswith(MAGIC) or version not in VERSIONS:
        raise InvalidInput(
            "the body is no .npy file of version 1.0 or 2.0. Write it with numpy.save, or say "
            "with Content-Type what it is."
        )
    width = VERSIONS[version]
    begin = len(MAGIC) + 2 + width
    size = int.from_bytes(body[begin - width : begin], "little")
    if size > LONGEST_HEAD or len(body) < begin + size:
        raise InvalidInput("the head of the .npy file is cut off, or too long.")
    return begin, begin + size


@functools.lru_cache(maxsize=256)
def _read_head(data: bytes) -> NpyHead:
    """Return what the text of a head says; clients send few different ones."""
    text = data.decode("latin-1")
    given, place = {}, 0
    while field := FIELD.match(text, place):
        given[field["name"]], place = field, field.end()
    if given.keys() != {"descr", "fortran_order", "shape"} or text[place:].strip() != "}":
        raise InvalidInput(
            f"the head of the .npy file is {text.strip()[:100]!r}; expected dtype, order and shape "
            "of an array of numbers, as numpy.save writes them."
        )
    letters, shape = given["descr"]["descr"], given["shape"]["shape"]
    if not letters or not NUMERIC.fullmatch(letters):
        raise InvalidInput(
            f"the array is of dtype {letters!r}; a .npy body holds numbers. Send text as JSON, "
            "bfloat16 as application/octet-stream, and nothing that is pickled."
        )
    if shape is None or not given["fortran_order"]["order"]:
        raise InvalidInput("the head of the .npy file has values of the wrong kinds.")
    sizes = tuple(int(size) for size in shape.replace(",", " ").split())
    return NpyHead(np.dtype(letters), sizes, given["fortran_order"]["order"] == "True")


def check_npy(method: MethodSpec) -> None:
    """Refuse a method whose outputs are not one tensor of numbers.

    Raises:
        NotAcceptable: They are not.
    """
    check_output(method.output, NAME, single=True)


def write_npy(answer: Answer, by_rows: bool) -> Written:
    """Return the body of an answer; the array's bytes are not copied.

    Raises:
        NotAcceptable: It is not one tensor of numbers.
    """
    return Written(npy_pieces(only_output(answer, NAME)))


def npy_pieces(array: Array) -> tuple[bytes, Any]:
    """Return the head and the bytes of an array.

    Raises:
        NotAcceptable: NumPy has no such dtype.
    """
    if array.dtype.kind not in NUMBERS:
        raise NotAcceptable(
            f"NumPy's files have no dtype {array.dtype.name}. Accept application/octet-stream or "
            "application/json."
        )
    return _write_head(array.dtype.newbyteorder("<"), array.shape), array_bytes(array)


@functools.lru_cache(maxsize=256)
def _write_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue()

"""`application/x-npz` bodies: several arrays by name, as `numpy.savez` writes them.

A zip file of `.npy` files. What it unpacks to is counted before and while it is unpacked: a
small file may hold gigabytes of zeros.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib

from tfrunner.answer import Answer
from tfrunner.api.answers import Written, check_answer, check_output
from tfrunner.api.npy_body import npy_pieces, parse_npy
from tfrunner.casting import Call, cast
from tfrunner.errors import InvalidInput, TooLarge
from tfrunner.specs import DictSpec, ListSpec, MethodSpec, Node, TensorSpec, TupleSpec
from tfrunner.tensors import Array

NAME = "application/x-npz"
SUFFIX = ".npy"
MOST_MEMBERS = 1000
BY_POSITION = re.compile(r"arr_(\d{1,4})")
"""What numpy.savez calls an array that was given no name."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


def read_npz(body: bytes, method: MethodSpec, *, limit: int) -> Call:
    """Return the call of a method with the arrays of a body.

    Args:
        body: The zip file.
        method: What is called.
        limit: Most bytes that the arrays may have together.

    Raises:
        InvalidInput: It is no such file, or its arrays do not fit the method.
        TooLarge: They have more bytes.
    """
    arrays = parse_npz(body, limit=limit)
    places = [BY_POSITION.fullmatch(name) for name in arrays]
    names = {each.name for each in method.arguments}
    if arrays and all(places) and not names & arrays.keys():
        ordered = sorted(arrays, key=lambda name: int(name[4:]))
        return cast(method, [arrays[name] for name in ordered], {})
    return cast(method, (), arrays)


def parse_npz(body: bytes, *, limit: int) -> dict[str, Array]:
    """Return the arrays of a body by name.

    Raises:
        InvalidInput: It is no such file.
        TooLarge: They have more than `limit` bytes together.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            members = file.infolist()
            _check(members, limit)
            data = {each.filename: _unpack(file, each) for each in members}
    except UNREADABLE as exc:
        raise InvalidInput(f"the body is no .npz file that can be read: {exc}") from None
    return {name.removesuffix(SUFFIX): parse_npy(each) for name, each in data.items()}


def _check(members: list[zipfile.ZipInfo], limit: int) -> None:
    names = [each.filename for each in members]
    if len(names) > MOST_MEMBERS or len(set(names)) != len(names):
        raise InvalidInput(f"the .npz file has {len(names)} arrays, or two of the same name.")
    for each in members:
        if each.compress_type not in METHODS or each.flag_bits & ENCRYPTED:
            raise InvalidInput(f"{each.filename!r} is packed in a way that is not understood.")
    size = sum(each.file_size for each in members)
    if size > limit:
        raise TooLarge(
            f"the arrays have {size} bytes; at most {limit} bytes are taken. Send fewer rows in "
            "one request, or raise the server's body limit."
        )


def _unpack(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return what a member holds; no more than it says is ever unpacked."""
    with file.open(member) as stream:
        return stream.read(member.file_size)


def check_npz(method: MethodSpec) -> None:
    """Refuse a method with outputs that are not of numbers.

    Raises:
        NotAcceptable: It has some.
    """
    check_output(method.output, NAME, single=False)


def write_npz(answer: Answer, by_rows: bool) -> Written:
    """Return the body of an answer: its tensors by name, not packed.

    Raises:
        NotAcceptable: One is not of numbers.
    """
    check_answer(answer, NAME)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as file:
        for name, array in zip(output_names(answer.structure), answer.arrays, strict=True):
            with file.open(name + SUFFIX, "w", force_zip64=True) as stream:
                for piece in npy_pieces(array):
                    stream.write(piece)
    return Written((data.getvalue(),))


def output_names(structure: Node, at: str = "") -> list[str]:
    """Return a name for each tensor of a structure, in its order.

    A dict's keys are the names; items of a list have their tensor's name where all have
    different ones, else `output_0`, `output_1`, ...; inner ones follow after a slash.
    """
    match structure:
        case TensorSpec(name=name):
            return [at or name or "output_0"]
        case DictSpec(items=mapping):
            keyed = dict(mapping)
        case ListSpec(items=items) | TupleSpec(items=items):
            names = [child.name if isinstance(child, TensorSpec) else "" for child in items]
            if "" in names or len(set(names)) != len(names):
                names = [f"output_{index}" for index in range(len(items))]
            keyed = dict(zip(names, items, strict=True))
        case _:
            return []
    below = f"{at}/" if at else ""
    return [name for key, child in keyed.items() for name in output_names(child, below + key)]

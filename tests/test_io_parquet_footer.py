"""Parquet files with wrong footers: refused before pyarrow sees them, which they would end."""

from __future__ import annotations

import io
import struct
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from tests.test_io_frames import parquet
from tfrunner.errors import InvalidInput, TooLarge
from tfrunner.io import Body, PandasDataFrame
from tfrunner.io.parquet_footer import FOOTER
from tfrunner.io.parquet_pages import Sizes, measure
from tfrunner.io.thrift import BINARY, INT, LIST, LONG, STRUCT, Reader

PARQUET = "application/vnd.apache.parquet"


class Int(int):
    """A number of 32 bits; others have 64."""


def varint(value: int) -> bytes:
    """Return a number without sign as Thrift's compact protocol writes it."""
    signs = bytearray()
    while value > 127:
        signs.append(value & 127 | 128)
        value >>= 7
    return bytes((*signs, value))


def kind(value: Any) -> int:
    """Return the type of a value."""
    kinds = {Int: INT, int: LONG, bytes: BINARY, list: LIST, dict: STRUCT}
    return kinds[type(value)]


def packed(value: Any) -> bytes:
    """Return a number, bytes, a list, or a struct by the numbers of its fields."""
    if isinstance(value, int):
        return varint(value << 1 if value >= 0 else -value * 2 - 1)
    if isinstance(value, bytes):
        return varint(len(value)) + value
    if isinstance(value, list):
        of = kind(value[0]) if value else STRUCT
        return bytes([0xF0 | of]) + varint(len(value)) + b"".join(map(packed, value))
    fields = (bytes([kind(each)]) + packed(key) + packed(each) for key, each in value.items())
    return b"".join(fields) + b"\0"


def parquet_of(footer: bytes, end: bytes = b"PAR1") -> bytes:
    """Return a file that is nothing but a footer."""
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + end


def footer_of(**changes: Any) -> dict[int, Any]:
    """Return the footer of a file with one column, which has no page."""
    column = {5: 0, 7: 0, 9: 4, **changes.get("column", {})}
    group = {1: [{3: column}], 3: 0, **changes.get("group", {})}
    schema = [{4: b"root", 5: Int(1)}, {1: Int(1), 4: b"a"}]
    return {2: schema, 3: 0, 4: [group], **changes.get("file", {})}


@pytest.mark.parametrize(("at", "value"), [(311, 1), (288, 36), (289, 38), (289, 3)])
def test_statistics_that_contradict_each_other_do_not_end_the_process(at: int, value: int) -> None:
    """Arrow's C++ throws through Python's frames where a column is asked for by its number."""
    whole = bytearray(parquet())
    whole[at] = value
    try:
        assert isinstance(PandasDataFrame().read(Body(bytes(whole), PARQUET)), pandas.DataFrame)
    except (InvalidInput, TooLarge) as exc:
        assert "\n" not in exc.message


def test_any_byte_of_the_footer_may_be_wrong() -> None:
    """Each in turn, by one bit: a frame, or refused."""
    whole = parquet()
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(begin, begin + 700):
        wrong = bytearray(whole)
        wrong[at] ^= 1 << at % 8
        try:
            PandasDataFrame().read(Body(bytes(wrong), PARQUET))
        except (InvalidInput, TooLarge) as exc:
            assert exc.message


def test_a_footer_says_where_the_pages_are() -> None:
    """Without a page there is nothing to unpack; the writers of our time are read."""
    sizes = Sizes(rows=0, columns=1, largest=0, values=0)
    for writer in (b"x", b"parquet-mr version 1.12.3 (build f8d)", b"parquet-mr version 1.2.9.7-a"):
        assert measure(parquet_of(packed(footer_of(file={6: writer})))) == sizes
    assert measure(parquet_of(packed(footer_of(group={3: 7})))).rows == 7


LEVELS = [{4: b"root", 5: Int(1)}] + [{4: b"a", 5: Int(1)}] * 10_000 + [{1: Int(1), 4: b"x"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column": {7: -1}}, "a size is -1"),
        ({"column": {9: -5}}, "a size is -5"),
        ({"column": {9: Int(5)}}, "a field has type 5, expected 6"),
        ({"column": {7: 2**62}}, "columns have more bytes than the file"),
        ({"column": {9: 2**40, 7: 1}}, "is cut off, or something is missing"),
        ({"column": {2: [b"x"]}}, "a list has items of type 8, expected 5"),
        ({"column": {30: [Int(1)]}}, "type 9 is not known"),
        ({"group": {1: [{2: 0}]}}, "something is missing"),
        ({"group": {3: -1}}, "a size is -1"),
        ({"file": {3: -1}}, "a size is -1"),
        ({"file": {3: 2**70}}, "does not end|more than 64 bits"),
        ({"file": {2: LEVELS}}, "more than 100 levels"),
        ({"file": {2: [{5: Int(-1)}]}}, "a size is -1"),
        ({"file": {6: b"parquet-mr version 1.2.8 (build x)"}}, "a parquet-mr before 1.2.9"),
        ({"file": {6: b"Parquet-MR version 1.12.0"}}, "a parquet-mr before 1.2.9"),
        ({"file": {6: b"parquet-mr version 1.12.0 version 1.2.8"}}, "a parquet-mr before 1.2.9"),
        ({"file": {9: {1: {1: {1: {1: {1: {1: {1: {1: 1}}}}}}}}}}, "structs within structs"),
    ],
    ids=[
        "size",
        "place",
        "type",
        "overlap",
        "beyond",
        "items",
        "list",
        "no column",
        "rows of a group",
        "rows",
        "number",
        "levels",
        "children",
        "old writer",
        "other case",
        "two versions",
        "structs",
    ],
)
def test_a_footer_that_readers_might_understand_differently(changes: Any, message: str) -> None:
    """Or that is small and would take much memory."""
    data = parquet_of(packed(footer_of(**changes)))
    with pytest.raises(InvalidInput, match=f"^the body is no readable Parquet file: .*({message})"):
        PandasDataFrame().read(Body(data, PARQUET))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (parquet_of(b"\x35\0" * 2 + b"\0"), "expected 6"),
        (parquet_of(b"\x36\0\x06\x06\0\0"), "field 3 cannot be"),
        (parquet_of(b"\x06\0\0\0"), "field 0 cannot be"),
        (parquet_of(b"\x1b\0\0"), "type 11 is not known"),
        (parquet_of(b"\x36" + b"\xff" * 11 + b"\0"), "a number does not end"),
        (parquet_of(b"\x18\x7f\0"), "cut off"),
        (parquet_of(packed(footer_of())[:-1]), ""),
        (parquet_of(b"\x49\xfc" + varint(5_000_000) + b"\0" * 99), "too many parts"),
        (parquet_of(packed(footer_of()), b"PARE"), "is encrypted"),
        (b"PAR1\xff\0\0\0PAR1", "longer than the file"),
        (b"", "does not end as one"),
        (b"PAR1", "does not end as one"),
        (b"PAR1\0\0\0\0PAR1", "cut off"),
    ],
    ids=[
        "type",
        "twice",
        "zero",
        "map",
        "number",
        "text",
        "end",
        "items",
        "encrypted",
        "length",
        "empty",
        "magic",
        "nothing",
    ],
)
def test_bytes_that_are_no_footer(data: bytes, message: str) -> None:
    """In one line."""
    with pytest.raises(InvalidInput, match=f"^the body is no readable Parquet file: .*({message})"):
        PandasDataFrame().read(Body(data, PARQUET))


def test_only_what_is_wanted_is_kept() -> None:
    """Numbers, bytes and doubles of other fields are passed over."""
    data = b"\x11\x12\x13\x05\x17" + b"d" * 8 + b"\x18\x01x\x16\x54\x1c\x15\x02\0\0"
    assert Reader(data, most=20).struct({6: LONG, 5: BINARY, 7: {1: INT}}) == {
        5: b"x",
        6: 42,
        7: {1: 1},
    }
    with pytest.raises(ValueError, match="too many parts"):
        Reader(data, most=7).struct({})
    with pytest.raises(ValueError, match="too many parts"):
        Reader(b"\x01\x02" * 10**6, most=7).struct({})
    assert Reader(packed(footer_of()), most=99).struct(FOOTER)[4] == [
        {1: [{3: {7: 0, 9: 4}}], 3: 0}
    ]


@pytest.mark.parametrize(
    "said",
    [b"[" * 100_000, b"[]", b"{}", b"\xff", b'{"index_columns": 5, "columns": 5}'],
    ids=["deep", "list", "empty", "bytes", "numbers"],
)
def test_what_pandas_wrote_into_a_file_may_be_anything(said: bytes) -> None:
    """It is read without a check: a frame, or refused."""
    data = io.BytesIO()
    table = pyarrow.table({"a": [1]}).replace_schema_metadata({b"pandas": said})
    pyarrow.parquet.write_table(table, data)
    try:
        assert PandasDataFrame().read(Body(data.getvalue(), PARQUET)).shape == (1, 1)
    except InvalidInput as exc:
        assert "no readable Parquet file" in exc.message

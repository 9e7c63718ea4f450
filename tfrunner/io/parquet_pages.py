"""What the pages of a Parquet file unpack to, by their own heads: its footer may say less.

The heads are structs of Thrift's compact protocol (Apache Parquet, parquet.thrift, `PageHeader`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tfrunner.errors import InvalidInput

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData, FileMetaData

MOST_PAGES = 200_000
"""Pages whose heads are read, of all columns: a few microseconds each."""

DEPTH = 4
"""Structs within structs; a page's head has three."""

MOST_NUMBER = 100
"""Of a field. Numbers wrap around in other readers, and the last of two counts, or the first."""

UNPACKED, PACKED = 2, 3
DATA_HEADS = (5, 8)
"""Fields of a page's head: its sizes, and what is particular to pages of data, both versions."""

TRUE, FALSE, BYTE, SHORT, INT, LONG, DOUBLE, BINARY, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
"""Types of fields; lists, sets and maps do not occur."""


class Sizes(NamedTuple):
    """What a file unpacks to.

    Args:
        largest: Bytes of its largest row group.
        values: Values of all columns; those in lists count each.
    """

    largest: int
    values: int


def measure(data: bytes, head: FileMetaData) -> Sizes:
    """Return what a file unpacks to, without unpacking it.

    Raises:
        InvalidInput: A page's head cannot be read, there are too many, or columns share bytes.
    """
    largest = values = pages = packed = 0
    for place in range(head.num_row_groups):
        group, size = head.row_group(place), 0
        for column in range(group.num_columns):
            chunk = group.column(column)
            packed += chunk.total_compressed_size
            if packed > len(data):
                raise InvalidInput("the Parquet file's columns have more bytes than the file.")
            for unpacked, count in _pages(data, chunk, MOST_PAGES - pages):
                size, values, pages = size + unpacked, values + count, pages + 1
        largest = max(largest, size)
    return Sizes(largest, values)


def _pages(data: bytes, chunk: ColumnChunkMetaData, most: int) -> list[tuple[int, int]]:
    """Return the unpacked bytes and the values of each page of a column of a row group."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
        at = chunk.dictionary_page_offset
    end = at + chunk.total_compressed_size
    found: list[tuple[int, int]] = []
    try:
        while at < end:
            if len(found) >= most:
                raise InvalidInput(f"the Parquet file has more than {MOST_PAGES} pages.")
            fields, at = _struct(data, at, DEPTH)
            values = max(fields[each][1] if each in fields else 0 for each in DATA_HEADS)
            if min(fields[UNPACKED], fields[PACKED], values) < 0:
                raise ValueError("a size is negative")
            found.append((fields[UNPACKED], values))
            at += fields[PACKED]
    except (IndexError, KeyError, TypeError, ValueError) as exc:
        raise InvalidInput(
            f"the body is no readable Parquet file: the head of a page is broken ({exc})."
        ) from None
    return found


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by their numbers, and where it ends."""
    if depth == 0:
        raise ValueError("it has structs within structs")
    fields: dict[int, Any] = {}
    number = 0
    while sign := data[at]:
        step, kind = sign >> 4, sign & 15
        at += 1
        if step:
            number += step
        else:
            number, at = _number(data, at)
        if number in fields or not 0 < number <= MOST_NUMBER:
            raise ValueError(f"field {number} cannot be")
        if kind == STRUCT:
            fields[number], at = _struct(data, at, depth - 1)
        else:
            fields[number], at = _value(data, at, kind)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """Return a value that is no struct, 0 for what is no number, and where it ends."""
    if kind in (TRUE, FALSE):
        return 0, at
    if kind in (SHORT, INT, LONG):
        found, at = _number(data, at)
        if kind == INT and not -(2**31) <= found < 2**31:
            raise ValueError(f"{found} is no i32")
        return found, at
    if kind == BINARY:
        size, at = _varint(data, at)
        return 0, at + size
    if kind in (BYTE, DOUBLE):
        return 0, at + (1 if kind == BYTE else 8)
    raise ValueError(f"type {kind} is not known")


def _number(data: bytes, at: int) -> tuple[int, int]:
    found, at = _varint(data, at)
    return (found >> 1) ^ -(found & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        found |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return found, at
    raise ValueError("a number does not end")

"""What the pages of a Parquet file unpack to, by their own heads: its footer may say less.

Nothing is unpacked for it. Source: Apache Parquet, parquet.thrift, `PageHeader`.
"""

from __future__ import annotations

from typing import NamedTuple

from tfrunner.errors import InvalidInput
from tfrunner.io.parquet_footer import Column, read_footer
from tfrunner.io.thrift import INT, Reader

MOST_PARTS = 4_000_000
"""Fields of the footer and of the heads of all pages."""

UNPACKED, PACKED = 2, 3
DATA_HEADS = (5, 8)
"""Of a page's head: what is particular to pages of data, both versions. First: its values."""

VALUES = 1
HEAD = {UNPACKED: INT, PACKED: INT, **{each: {VALUES: INT} for each in DATA_HEADS}}


class Sizes(NamedTuple):
    """What a file unpacks to.

    Args:
        rows: As its footer says, or its row groups where that is more.
        columns: Those in nested ones counted.
        largest: Bytes of its largest row group.
        values: Values of all columns; those in lists count each.
    """

    rows: int
    columns: int
    largest: int
    values: int


def measure(data: bytes) -> Sizes:
    """Return what a file unpacks to, without unpacking it.

    Raises:
        InvalidInput: Its footer or a page's head cannot be read, or columns share bytes.
    """
    reader = Reader(data, most=MOST_PARTS)
    try:
        footer = read_footer(reader)
        largest = values = packed = 0
        for group in footer.groups:
            size = 0
            for column in group:
                packed += column.end - column.begin
                if packed > len(data):
                    raise ValueError("its columns have more bytes than the file")
                unpacked, count = _pages(reader, column)
                size, values = size + unpacked, values + count
            largest = max(largest, size)
    except (IndexError, KeyError, ValueError) as exc:
        what = str(exc) if isinstance(exc, ValueError) else "it is cut off, or something is missing"
        raise InvalidInput(f"the body is no readable Parquet file: {what}.") from None
    return Sizes(footer.rows, footer.columns, largest, values)


def _pages(reader: Reader, column: Column) -> tuple[int, int]:
    """Return the unpacked bytes and the values of the pages of a column of a row group."""
    size = values = 0
    reader.at = column.begin
    while reader.at < column.end:
        head = reader.struct(HEAD)
        count = max(head[each][VALUES] if each in head else 0 for each in DATA_HEADS)
        if min(head[UNPACKED], head[PACKED], count) < 0:
            raise ValueError("the size of a page is negative")
        size, values = size + head[UNPACKED], values + count
        reader.at += head[PACKED]
    return size, values

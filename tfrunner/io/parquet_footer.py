"""The footer of a Parquet file, as far as it says how large the file is.

Read here before pyarrow sees it: that makes objects of a kilobyte from a few bytes of it, and
ends the process where one statistic of a column does not fit another. Source: Apache Parquet,
parquet.thrift, `FileMetaData`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from tfrunner.io.thrift import BINARY, INT, LONG, Reader

MAGIC, ENCRYPTED = b"PAR1", b"PARE"
SHORTEST = 12
"""Bytes of a file: its signs at both ends, and the length of the footer."""

MOST_LEVELS = 100
"""Groups within groups of a schema: readers call themselves for each."""

CHILDREN = 5
"""Of an element of the schema, whose groups are told before what is in them."""

PACKED, PAGES, DICTIONARY = 7, 9, 11
ENCODINGS, PATH, PAIRS, PAGE_COUNTS, SIZES, PLACES = 2, 3, 8, 13, 16, 17
COLUMN = {
    PACKED: LONG,
    PAGES: LONG,
    DICTIONARY: LONG,
    ENCODINGS: [INT],
    PATH: [BINARY],
    PAIRS: [{}],
    PAGE_COUNTS: [{}],
    SIZES: {2: [LONG], 3: [LONG]},
    PLACES: {2: [INT]},
}
"""A column of a row group; the lists are wanted only as all lists must be known."""

COLUMNS, GROUP_ROWS, SORTED_BY = 1, 3, 4
COLUMN_OF_CHUNK = 3
GROUP = {COLUMNS: [{COLUMN_OF_CHUNK: COLUMN}], GROUP_ROWS: LONG, SORTED_BY: [{}]}

SCHEMA, ROWS, GROUPS, FILE_PAIRS, WRITER, ORDERS = 2, 3, 4, 5, 6, 7
FOOTER = {
    SCHEMA: [{CHILDREN: INT}],
    ROWS: LONG,
    GROUPS: [GROUP],
    FILE_PAIRS: [{}],
    WRITER: BINARY,
    ORDERS: [{}],
}

PARQUET_MR = re.compile(
    rb"parquet-mr version (\d{1,9})\.(\d{1,9})\.(\d{1,9})[^\s()]*( \(build [^()]*\))?"
)
OLDEST_PARQUET_MR = (1, 2, 9)
"""Those before told too small sizes; readers look for pages beyond what they say (PARQUET-816)."""


class Column(NamedTuple):
    """Where the pages of a column of a row group are.

    Args:
        begin: Its first byte.
        end: The byte after its last.
    """

    begin: int
    end: int


class Footer(NamedTuple):
    """What the footer of a file says.

    Args:
        rows: Of the file, or of all row groups where that is more.
        columns: How many there are, those in nested ones counted.
        groups: The columns of each row group.
    """

    rows: int
    columns: int
    groups: tuple[tuple[Column, ...], ...]


def read_footer(reader: Reader) -> Footer:
    """Return what the footer of a file says.

    Args:
        reader: Of the whole file.

    Raises:
        ValueError: It is broken, encrypted, or says what readers understand differently.
        IndexError: It is cut off.
        KeyError: Something is missing.
    """
    data = reader.data
    if data[-4:] == ENCRYPTED:
        raise ValueError("it is encrypted")
    if len(data) < SHORTEST or data[-4:] != MAGIC:
        raise ValueError("it does not end as one; it may be cut off")
    reader.at = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    if reader.at < 0:
        raise ValueError("its footer is longer than the file")
    found = reader.struct(FOOTER)
    if reader.at > len(data) - 8:
        raise ValueError("its footer is cut off")
    _check_writer(found.get(WRITER, b""))
    counts = [element.get(CHILDREN, 0) for element in found[SCHEMA]]
    _check_levels(counts)
    rows = [_positive(group[GROUP_ROWS]) for group in found[GROUPS]]
    return Footer(
        max(_positive(found[ROWS]), sum(rows)),
        counts.count(0),
        tuple(tuple(map(_column, group[COLUMNS])) for group in found[GROUPS]),
    )


def _column(chunk: dict[int, Any]) -> Column:
    """Return where a column is: before the first page of data there may be one of a dictionary."""
    said = chunk[COLUMN_OF_CHUNK]
    begin = _positive(said[PAGES])
    if 0 < said.get(DICTIONARY, 0) < begin:
        begin = said[DICTIONARY]
    return Column(begin, begin + _positive(said[PACKED]))


def _positive(number: int) -> int:
    if number < 0:
        raise ValueError(f"a size is {number}")
    return number


def _check_writer(writer: bytes) -> None:
    if b"parquet-mr" not in writer.lower():
        return
    found = PARQUET_MR.fullmatch(writer)
    if not found or tuple(map(int, found.groups()[:3])) < OLDEST_PARQUET_MR:
        raise ValueError("it was written by a parquet-mr before 1.2.9")


def _check_levels(counts: Iterable[int]) -> None:
    """Refuse a schema of very many levels.

    Args:
        counts: The children of each element, depth first.
    """
    left: list[int] = []
    for count in counts:
        while left and left[-1] == 0:
            left.pop()
        if left:
            left[-1] -= 1
        left.append(_positive(count))
        if len(left) > MOST_LEVELS:
            raise ValueError(f"its columns have more than {MOST_LEVELS} levels")

"""Data frames as CSV and Parquet. Pandas and pyarrow are imported on use."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tfrunner.errors import InvalidInput, TooLarge, UnsupportedForm
from tfrunner.io.parquet_pages import Sizes, measure

if TYPE_CHECKING:
    from pandas import DataFrame
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

MOST_VALUES = 50_000_000
"""Rows times columns of a frame: a short body may stand for very many."""

MOST_BYTES = 2**28
"""Bytes that a Parquet file may unpack to."""

MOST_ROWS_AT_ONCE = 65_536


def check_values(rows: int, columns: int) -> None:
    """Refuse a frame before it is made.

    Raises:
        TooLarge: It would have too many values.
    """
    if rows * columns > MOST_VALUES:
        raise TooLarge(
            f"the data frame has {rows} rows and {columns} columns; at most {MOST_VALUES} values "
            "are taken. Send fewer rows in one request."
        )


def read_csv(data: bytes, text: Iterable[str] = ()) -> DataFrame:
    """Return the frame of a CSV file, whose first line names the columns.

    Args:
        data: UTF-8.
        text: Columns that stay text, also where they look like numbers.

    Raises:
        InvalidInput: It is none.
        TooLarge: It has too many values, those that short lines lack included. Line breaks in
            quoted values count as lines.
    """
    import pandas

    # From 3.1 on every number is read exactly, and asking for it is deprecated.
    is_exact = tuple(map(int, pandas.__version__.split(".")[:2])) >= (3, 1)
    exactly = {} if is_exact else {"float_precision": "round_trip"}
    lines = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n") + 1  # the first included
    try:
        head = pandas.read_csv(io.BytesIO(data), nrows=1)
        levels = 0 if isinstance(head.index, pandas.RangeIndex) else head.index.nlevels
        check_values(lines, head.shape[1] + levels)
        frame = pandas.read_csv(io.BytesIO(data), dtype=dict.fromkeys(text, str), **exactly)
    except ValueError as exc:  # all of pandas' own errors for files are such
        reason = " ".join(str(exc).split())
        raise InvalidInput(f"the body is no readable CSV file: {reason}.") from None
    if not isinstance(frame.index, pandas.RangeIndex):  # what pandas makes of surplus values
        raise InvalidInput("the CSV file has lines with more values than its first line has names.")
    return frame


def read_parquet(data: bytes) -> DataFrame:
    """Return the frame of a Parquet file.

    Raises:
        InvalidInput: It is none, or is cut off.
        TooLarge: It unpacks to too much.
        UnsupportedForm: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, BufferReader
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UnsupportedForm(
            "this server reads no Parquet: it lacks pyarrow. Send JSON or CSV, or install "
            "tfrunner[io] where it runs."
        ) from None
    rows = _rows_at_once(measure(data))
    try:
        frame: DataFrame = _read_pieces(ParquetFile(BufferReader(data)), rows).to_pandas()
    except TooLarge:
        raise
    except Exception as exc:  # what pandas wrote into the file is read without any check
        if isinstance(exc, MemoryError) and not isinstance(exc, ArrowException):
            raise
        reason = " ".join(str(exc).split())
        raise InvalidInput(f"the body is no readable Parquet file: {reason}.") from None
    return frame


def _rows_at_once(sizes: Sizes) -> int:
    """Return how many rows of a file are at most `MOST_BYTES`; refuse what would be more at once.

    No value is larger than its row group, and the pages say how large that is. What is not
    known beforehand: a row may hold lists, and a list one long text very often.
    """
    check_values(sizes.rows, max(sizes.columns, 1))
    check_values(sizes.values, 1)
    if sizes.largest > MOST_BYTES:
        raise _unpacks_to_more()
    return min(max(MOST_BYTES // max(sizes.largest, 1), 1), MOST_ROWS_AT_ONCE)


def _unpacks_to_more() -> TooLarge:
    return TooLarge(
        f"the Parquet file unpacks to more than {MOST_BYTES} bytes. Send fewer rows in one request."
    )


def _read_pieces(file: ParquetFile, rows: int) -> Table:
    """Return the table of a file, unpacked so many rows at a time and never beyond the limit.

    One long text and a count of rows are a few bytes of Parquet.
    """
    from pyarrow import Table

    pieces, size = [], 0
    for piece in file.iter_batches(batch_size=rows):
        size += piece.nbytes
        if size > MOST_BYTES:
            raise _unpacks_to_more()
        pieces.append(piece)
    return Table.from_batches(pieces, schema=file.schema_arrow)


def write_csv(frame: DataFrame) -> bytes:
    """Return a frame as CSV, without its index."""
    text: str = frame.to_csv(index=False)
    return text.encode()


def write_parquet(frame: DataFrame) -> bytes:
    """Return a frame as Parquet, with its index.

    Raises:
        ValueError: A column cannot be written.
    """
    data = io.BytesIO()
    try:
        frame.to_parquet(data, engine="pyarrow")
    except NotImplementedError as exc:  # pyarrow's word for types that it does not have
        raise ValueError(str(exc)) from exc
    return data.getvalue()

"""Data frames that are small to send and large to hold: refused before memory is taken."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tfrunner.errors import InvalidInput, TooLarge
from tfrunner.io import Body, PandasDataFrame
from tfrunner.io.frame_forms import MOST_BYTES
from tfrunner.io.parquet_pages import measure

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"


def packed(columns: dict[str, Any], compression: str = "zstd", **options: Any) -> bytes:
    """Return columns as a Parquet file that is as small as can be."""
    data = io.BytesIO()
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, data, compression=compression, **options)
    return data.getvalue()


def long_texts(count: int) -> Any:
    """Return as many texts of a million bytes."""
    return pyarrow.array(["x" * 10**6]).take(pyarrow.array([0] * count))


def footer(data: bytes) -> Any:
    """Return what the end of a file says of it."""
    return pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata


def number(value: int, size: int = 0) -> bytes:
    """Return a number as Thrift's compact protocol writes it, filled up to a size."""
    signs: list[int] = []
    rest = value << 1
    while rest or not signs or len(signs) < size:
        signs.append(rest & 127 | 128)
        rest >>= 7
    signs[-1] &= 127
    return bytes(signs)


def lying(data: bytes, said: int, instead: int) -> bytes:
    """Return a file with another number wherever its footer says this one."""
    at = data.index(number(said))
    assert at > len(data) // 2
    return data.replace(number(said), number(instead, len(number(said))))


@contextmanager
def counting() -> Iterator[Any]:
    """Count what pyarrow allocates."""
    before = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(before)
    pyarrow.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pyarrow.set_memory_pool(before)


@pytest.mark.parametrize(
    ("data", "content_type", "message"),
    [
        (packed({"a": long_texts(900)}), PARQUET, "unpacks"),
        (packed({"a": pyarrow.nulls(60_000_000)}), PARQUET, "60000000 rows and 1 columns; at most"),
        (
            packed({"a": pyarrow.array([[None] * 60_000_000])}),
            PARQUET,
            "60000000 rows and 1 columns",
        ),
        (json.dumps([{f"k{i}": 1} for i in range(8000)]).encode(), JSON, "8000 rows and 8000"),
        (b"," * 19_999 + b"\n" + b"1\n" * 20_000, CSV, "20002 rows and 20000 columns"),
        (b"," * 19_999 + b"\r" + b"1\r" * 20_000, CSV, "20002 rows and 20000 columns"),
    ],
    ids=["one text", "no values", "one list", "no shared key", "short lines", "other line ends"],
)
def test_a_bomb_is_refused_before_it_is_unpacked(
    data: bytes, content_type: str, message: str
) -> None:
    """A body that stands for a thousand times its bytes."""
    assert len(data) < 200_000
    with pytest.raises(TooLarge, match=message):
        PandasDataFrame().read(Body(data, content_type))


@pytest.mark.parametrize("is_honest", [True, False], ids=["told", "hidden"])
def test_pages_that_unpack_to_too_much_are_left_packed(is_honest: bool) -> None:
    """One row is more than is taken, whatever the footer says of it."""
    column = pyarrow.array([["x" * 10**6] * 300])
    data = packed({"a": column, "b": column}, use_dictionary=False)
    if not is_honest:
        size = footer(data).row_group(0).total_byte_size
        data = lying(data, size, 1)
        assert footer(data).row_group(0).total_byte_size == 1
    with counting() as pool, pytest.raises(TooLarge, match="unpacks to more"):
        PandasDataFrame().read(Body(data, PARQUET))
    assert pool.max_memory() < MOST_BYTES // 16


def test_columns_that_share_bytes_are_refused() -> None:
    """Else few bytes could be unpacked once for each column."""
    data = packed({"a": [bytes(range(256)) * 20]}, compression="none", write_statistics=False)
    size = footer(data).row_group(0).column(0).total_compressed_size
    with pytest.raises(InvalidInput, match="columns have more bytes than the file"):
        PandasDataFrame().read(Body(lying(data, size, 8191), PARQUET))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False, "row_group_size": 300},
        {"data_page_size": 512, "write_page_checksum": True, "write_statistics": False},
    ],
    ids=["plain", "groups", "pages"],
)
def test_pages_are_found_as_others_write_them(version: str, compression: str, options: Any) -> None:
    """All their values, and no more bytes than the footer says with the pages' heads."""
    count = range(1000)
    columns = {
        "number": [each if each % 5 else None for each in count],
        "text": [str(each % 7) * 3 for each in count],
        "list": [[{"a": str(each)}] * (each % 4) for each in count],
        "none": pyarrow.nulls(1000),
    }
    data = packed(columns, compression, data_page_version=version, **options)
    groups = [
        footer(data).row_group(place).to_dict() for place in range(footer(data).num_row_groups)
    ]
    found = measure(data)
    assert found.values == sum(each["num_values"] for group in groups for each in group["columns"])
    largest = max(group["total_byte_size"] for group in groups)
    assert largest / 2 < found.largest < largest
    assert PandasDataFrame().read(Body(data, PARQUET)).shape == (1000, 4)

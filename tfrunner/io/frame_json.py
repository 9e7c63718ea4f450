"""Data frames as JSON, in five orients. Pandas is imported on use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tfrunner.api import json_text
from tfrunner.errors import InvalidInput
from tfrunner.io.frame_forms import check_values

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NUMBER = re.compile("0|-?[1-9][0-9]{0,18}")
"""A label of rows that is a number, as Python writes one: `007` is text."""

ORIENTS = ("records", "columns", "index", "split", "values")


def read_json(data: bytes, orient: str) -> DataFrame:
    """Return the frame of a JSON document.

    Values stay what JSON says that they are: no text becomes a number or a date. Null is what
    is missing, as are the keys that a record does not have.

    Raises:
        InvalidInput: It is no JSON, or is not oriented so.
        TooLarge: It has too many values, those that are missing included.
    """
    value = json_text.parse(data)
    try:
        if orient == "split":
            return _from_rows(value["data"], value["columns"], value.get("index"))
        if orient == "values":
            return _from_rows(value, None, None)
        return _from_records(value) if orient == "records" else _from_labels(value, orient)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InvalidInput(f"the body is no data frame with orient {orient!r}: {exc}.") from None


def _from_records(rows: Any) -> DataFrame:
    import pandas

    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected a list of objects")
    check_values(len(rows), len(set[str]().union(*rows)))
    return pandas.DataFrame(rows)


def _from_rows(rows: Any, columns: Any, index: Any) -> DataFrame:
    import pandas

    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("expected a list of lists")
    if len({len(row) for row in rows}) > 1:
        raise ValueError("the rows differ in length")
    if index is not None and len(index) != len(rows):
        raise ValueError(f"there are {len(rows)} rows and {len(index)} labels of rows")
    frame = pandas.DataFrame(rows, columns=columns, index=index)
    if columns is not None:
        set(frame.columns)  # TypeError where a name is an object, which pandas lets through
    return frame


def _from_labels(value: Any, orient: str) -> DataFrame:
    """Return the frame of an object of objects; an object of lists, of columns, goes too."""
    import pandas

    if not isinstance(value, dict):
        raise ValueError("expected an object")
    inner = list(value.values())
    if orient == "columns" and all(isinstance(each, list) for each in inner):
        return pandas.DataFrame(value)
    if not all(isinstance(each, dict) for each in inner):
        raise ValueError("expected an object of objects")
    check_values(len(inner), len(set[str]().union(*inner)))
    if orient == "index":
        rows = _by_number(value) if _are_numbers(value) else value
        return pandas.DataFrame.from_dict(rows, orient="index")
    if _are_numbers(label for each in inner for label in each):
        value = {name: _by_number(each) for name, each in value.items()}
    return pandas.DataFrame(value)


def _are_numbers(labels: Iterable[str]) -> bool:
    """Return whether labels of rows are numbers, all of them: JSON has only text as keys."""
    return all(NUMBER.fullmatch(label) for label in labels)


def _by_number(labels: dict[str, Any]) -> dict[int, Any]:
    return {int(label): value for label, value in labels.items()}


def write_json(frame: DataFrame, orient: str) -> bytes:
    """Return a frame as JSON.

    Raises:
        TypeError: JSON has no form for a value.
        ValueError: Two columns, or rows, would get the same key.
    """
    return json_text.write(to_plain(frame, orient))


def to_plain(frame: DataFrame, orient: str) -> Any:
    """Return a frame as lists and dicts; what is missing is None, times are ISO 8601.

    Raises:
        ValueError: Two columns, or rows, would get the same key.
    """
    names, labels = frame.columns.tolist(), [_plain(label) for label in frame.index.tolist()]
    if orient in ("records", "columns", "index") and not frame.columns.is_unique:
        raise ValueError(f"orient {orient!r} needs columns with different names")
    if orient in ("columns", "index") and not frame.index.is_unique:
        raise ValueError(f"orient {orient!r} needs rows with different labels")
    columns = [_cells(frame.iloc[:, place]) for place in range(len(names))]
    if orient == "columns":
        cells = zip(names, columns, strict=True)
        return {name: dict(zip(labels, each, strict=True)) for name, each in cells}
    rows = [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in labels]
    if orient == "values":
        return rows
    if orient == "split":
        return {"columns": names, "index": labels, "data": rows}
    records = [dict(zip(names, row, strict=True)) for row in rows]
    return records if orient == "records" else dict(zip(labels, records, strict=True))


def _cells(column: Series) -> list[Any]:
    values, missing = column.astype(object).tolist(), column.isna().tolist()
    return [
        None if is_missing else _plain(value)
        for value, is_missing in zip(values, missing, strict=True)
    ]


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value

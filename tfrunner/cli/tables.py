"""How results look: JSON for programs, tables for people."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

FILE_WIDTH = 160
"""Columns of a table that goes to a file or another program."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Print plain data as JSON; NaN and Infinity as Python writes them."""
    click.echo(json.dumps(data, indent=indent, ensure_ascii=False))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    whole: Collection[str] = (),
    width: int | None = None,
) -> None:
    """Print a table; where the terminal is narrow, long cells are folded, not cut.

    Args:
        title: Stands above it.
        columns: Their heads.
        rows: One cell for each column.
        numbers: Columns that stand at the right edge, and are not folded.
        whole: Further columns that are not folded.
        width: Columns of the screen; those of the terminal if not given.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        is_number = column in numbers
        table.add_column(
            column,
            overflow="fold",
            no_wrap=is_number or index == 0 or column in whole,
            justify="right" if is_number else "left",
        )
    for row in rows:
        table.add_row(*row)
    console = Console(width=width)
    if width is None and not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def to_plain(value: Any) -> Any:
    """Return outputs as JSON knows them: lists, numbers and text.

    Bytes that are no text become `{"b64": ...}`, complex numbers `[real, imaginary]`.
    """
    if isinstance(value, dict):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_plain(value.tolist())
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return value


def bytes_text(size: float) -> str:
    """Return a number of bytes as people write it: 12.3 MB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

"""Logging what goes into a model and what comes out: `tfrunner.monitor`.

    with tfrunner.monitor("irises") as record:
        record.log(5.1, name="sepal length", role="feature", data_type="numerical")
        record.log(kind, name="kind", role="prediction", data_type="categorical")

Each `with` block is one JSON line, with the time and the request's id, in a file of the process
under the server's `--monitor-folder`. Writing happens in a thread of its own: a slow or full
disk holds up nobody.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any, Literal, get_args

import orjson

from tfrunner.errors import StateError, did_you_mean
from tfrunner.monitor_values import encode
from tfrunner.monitor_writer import Columns, Writer
from tfrunner.observation import Observation

Role = Literal["feature", "prediction", "target"]
DataType = Literal["numerical", "categorical", "numerical_sequence"]
ROLES, DATA_TYPES = get_args(Role), get_args(DataType)

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
OWN = ("time", "request_id")
"""Keys of a line that are the server's."""

MOST_COLUMNS = 1000

REQUEST_ID: ContextVar[str] = ContextVar("tfrunner_request_id", default="")
"""The id of the request that an api process works on; "" elsewhere."""


class Monitors:
    """The monitors of this process.

    Args:
        place: Name of the process's place, which its files have.
        observation: Where to, and how much.
    """

    def __init__(self, place: str, observation: Observation) -> None:
        self.writer = Writer(place, observation)
        self._columns: dict[str, Columns] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Monitors [{', '.join(self._columns)} | {self.writer!r}]>"

    def configure(self, process: str, observation: Observation) -> None:
        """Say where records go; called once, before there are any.

        Args:
            process: Its name: that of its place, and the number of its start.
            observation: Where to, and how much.
        """
        self.writer = Writer(process.rpartition("-")[0] or process, observation)

    def learn(self, monitor: str, columns: Columns) -> Columns | None:
        """Take in the columns of a record; return all of the monitor, if there is a new one.

        Raises:
            StateError: A column was logged as something else before, or there are too many.
        """
        with self._lock:
            known = self._columns.setdefault(monitor, {})
            for name, declared in columns.items():
                if known.get(name, declared) != declared:
                    raise StateError(
                        f"monitor {monitor!r}: {name!r} is logged as {' '.join(declared)!r}, and "
                        f"was {' '.join(known[name])!r} before; give one another name."
                    )
            if columns.keys() <= known.keys():
                return None
            if len(known.keys() | columns.keys()) > MOST_COLUMNS:
                raise StateError(f"monitor {monitor!r} has more than {MOST_COLUMNS} columns")
            known.update(columns)
            return dict(known)


MONITORS = Monitors("local", Observation())
"""The one thing that modules share, as endpoints and Runnables are given no writer."""


class Record:
    """One record that is being made, or several with `log_batch`; made by `monitor`.

    Written when its block ends; not if an exception leaves it.

    Args:
        monitor: Name of the monitor.
        monitors: Those of this process.
    """

    def __init__(self, monitor: str, monitors: Monitors) -> None:
        self._monitor = monitor
        self._monitors = monitors
        self._columns: Columns = {}
        self._values: dict[str, list[bytes]] = {}
        self._is_batch: bool | None = None

    def __repr__(self) -> str:
        return f"<Record of {self._monitor} [{', '.join(self._columns)}]>"

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None and self._values:
            self._write()

    def log(self, value: Any, name: str, role: Role, data_type: DataType) -> None:
        """Add a value to the record.

        Args:
            value: Plain data, an array, a tensor; copied at once. Of an array with more than
                65 536 numbers only shape and dtype are written.
            name: What it is called.
            role: "feature", "prediction" or "target".
            data_type: "numerical", "categorical" or "numerical_sequence".

        Raises:
            StateError: It has no form in JSON, or is declared wrongly or otherwise than before.
        """
        self._add(name, role, data_type, [encode(value, name=name)], is_batch=False)

    def log_batch(self, values: Iterable[Any], name: str, role: Role, data_type: DataType) -> None:
        """Add a value to each of several records: one for each row.

        Args:
            values: As many as those of the block's other columns.
            name: See `log`; so are the others.
            role: Of the column.
            data_type: Of the column.

        Raises:
            StateError: As `log`; or there are more or fewer values than in another column.
        """
        rows = [encode(value, name=name) for value in values]
        self._add(name, role, data_type, rows, is_batch=True)

    def _add(
        self, name: str, role: str, data_type: str, values: list[bytes], *, is_batch: bool
    ) -> None:
        where = f"monitor {self._monitor!r}"
        if not isinstance(name, str) or not name or name in OWN:
            raise StateError(f"{where}: {name!r} cannot name a value; {' and '.join(OWN)} are ours")
        for given, allowed, what in ((role, ROLES, "role"), (data_type, DATA_TYPES, "data_type")):
            if given not in allowed:
                near = did_you_mean(str(given), allowed)
                raise StateError(f"{where}: the {what} of {name!r} is {given!r}.{near}")
        if name in self._values:
            raise StateError(f"{where}: {name!r} is logged twice in one block")
        if self._is_batch not in (None, is_batch):
            raise StateError(f"{where}: log and log_batch are mixed in one block")
        others = {len(each) for each in self._values.values()}
        if others and len(values) not in others:
            raise StateError(
                f"{where}: {name!r} has {len(values)} values, the columns before it {others.pop()}"
            )
        self._is_batch = is_batch
        self._columns[name] = (role, data_type)
        self._values[name] = values

    def _write(self) -> None:
        columns = self._monitors.learn(self._monitor, self._columns)
        lines = join_lines(self._values, head(REQUEST_ID.get()))
        size = sum(map(len, lines))
        self._monitors.writer.put(self._monitor, lambda: lines, size=size, columns=columns)


def monitor(name: str) -> Record:
    """Return a new record, to be used with `with`.

    Args:
        name: Of the monitor: letters, digits, `_`, `.` and `-`. It names a folder.

    Raises:
        StateError: The name cannot be one.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise StateError(
            f"{name!r} cannot name a monitor: expected letters, digits, '_', '.' and '-', at most "
            "100, the first one a letter, digit or '_'."
        )
    return Record(name, MONITORS)


def head(request_id: str) -> dict[str, bytes]:
    """Return what every line begins with."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    begin = {"time": orjson.dumps(now)}
    return {**begin, "request_id": orjson.dumps(request_id)} if request_id else begin


def join_lines(values: dict[str, list[bytes]], begin: dict[str, bytes]) -> list[bytes]:
    """Return one JSON line for each row of some columns, whose values are JSON already."""
    names = [orjson.dumps(name) for name in (*begin, *values)]
    lines = []
    for row in zip(*values.values(), strict=True):
        pairs = zip(names, (*begin.values(), *row), strict=True)
        lines.append(b"{%s}\n" % b",".join(b"%s:%s" % pair for pair in pairs))
    return lines

"""`tfrunner.monitor` in one process: what a line holds, and what is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

import tfrunner
from tests.api_world import method, model
from tfrunner import monitoring
from tfrunner.answer import Answer
from tfrunner.api.predict_log import PredictLog
from tfrunner.casting import cast
from tfrunner.errors import StateError
from tfrunner.monitor_values import MOST_NUMBERS
from tfrunner.monitor_writer import LARGEST_LINE, MOST_WAITING
from tfrunner.monitoring import MONITORS, REQUEST_ID
from tfrunner.observation import Observation
from tfrunner.specs import TensorSpec

FEATURE = {"role": "feature", "data_type": "numerical"}


class Folder:
    """Where this process's monitors write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def finish(self) -> None:
        """Have everything written."""
        MONITORS.writer.close(20.0)

    def lines(self, monitor: str) -> list[dict[str, Any]]:
        """Return the records of a monitor, all written."""
        self.finish()
        text = (self.path / monitor / "here.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """Return a folder for the monitors of this process, which start anew."""
    known, MONITORS._columns = MONITORS._columns, {}
    writer = MONITORS.writer
    MONITORS.configure("here-1", Observation(monitor_folder=str(tmp_path)))
    yield Folder(tmp_path)
    MONITORS.writer.close()
    MONITORS.writer, MONITORS._columns = writer, known


def test_a_record_is_a_line_with_time_request_and_values(folder: Folder) -> None:
    """And the schema says what the values are."""
    token = REQUEST_ID.set("request-1")
    begin = datetime.now(timezone.utc) - timedelta(seconds=1)
    with tfrunner.monitor("irises") as record:
        record.log(5.5, name="length", role="feature", data_type="numerical")
        record.log([1, 2], "pixels", "feature", "numerical_sequence")
        record.log("setosa", name="kind", role="prediction", data_type="categorical")
    REQUEST_ID.reset(token)
    with tfrunner.monitor("irises") as record:
        record.log("virginica", name="truth", role="target", data_type="categorical")
    first, second = folder.lines("irises")
    time = datetime.fromisoformat(first.pop("time"))
    assert begin <= time <= datetime.now(timezone.utc)
    assert first == {
        "request_id": "request-1",
        "length": 5.5,
        "pixels": [1, 2],
        "kind": "setosa",
    }
    assert set(second) == {"time", "truth"}
    schema = json.loads((folder.path / "irises" / "schema.json").read_text())
    assert schema["monitor"] == "irises"
    assert [tuple(each.values()) for each in schema["columns"]] == [
        ("length", "feature", "numerical"),
        ("pixels", "feature", "numerical_sequence"),
        ("kind", "prediction", "categorical"),
        ("truth", "target", "categorical"),
    ]


class Point(pydantic.BaseModel):
    """What an endpoint may take."""

    x: int
    y: float


VALUES: dict[str, tuple[Any, Any]] = {
    "numbers of NumPy": ([np.float32(0.5), np.int64(3), np.bool_(True)], [0.5, 3, True]),
    "an array": (np.arange(4, dtype="float32").reshape(2, 2), [[0.0, 1.0], [2.0, 3.0]]),
    "a view with gaps": (np.arange(6)[::2], [0, 2, 4]),
    "text in an array": (np.array(["a", "b"]), ["a", "b"]),
    "bytes": (b"caf\xc3\xa9", "café"),
    "not finite": ([float("nan"), float("inf")], [None, None]),
    "nested": (
        {"a": [np.ones(2), {"b": None}], 5: (1, 2)},
        {"a": [[1, 1], {"b": None}], "5": [1, 2]},
    ),
    "pydantic": (Point(x=1, y=2.5), {"x": 1, "y": 2.5}),
    "a data frame": (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), {"a": [1, 2], "b": ["x", "y"]}),
    "a series": (pd.Series([1, 2]), [1, 2]),
    "a set": ({7}, [7]),
    "large": (
        np.zeros((MOST_NUMBERS, 2), "int8"),
        {"shape": [MOST_NUMBERS, 2], "dtype": "int8", "omitted": 2 * MOST_NUMBERS},
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_have_a_form_in_json(folder: Folder, case: str) -> None:
    """All that endpoints take and give."""
    value, expected = VALUES[case]
    with tfrunner.monitor("values") as record:
        record.log(value, name="value", **FEATURE)
    (line,) = folder.lines("values")
    assert line["value"] == expected


def test_what_is_changed_after_it_was_logged_is_logged_as_it_was(folder: Folder) -> None:
    """Arrays are often used again."""
    array, rows = np.zeros(3), [[1]]
    with tfrunner.monitor("values") as record:
        record.log(array, name="array", **FEATURE)
        record.log(rows, name="rows", **FEATURE)
        array[:] = 9
        rows[0][0] = 9
    (line,) = folder.lines("values")
    assert (line["array"], line["rows"]) == ([0, 0, 0], [[1]])


def test_a_batch_is_a_line_for_each_row(folder: Folder) -> None:
    """Columns are logged one after the other."""
    with tfrunner.monitor("batch") as record:
        record.log_batch(np.arange(3), name="x", **FEATURE)
        record.log_batch(["a", "b", "c"], name="kind", role="prediction", data_type="categorical")
    assert [(line["x"], line["kind"]) for line in folder.lines("batch")] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]


def test_a_block_that_raises_logs_nothing(folder: Folder) -> None:
    """Nor does one that logs nothing."""
    with pytest.raises(KeyError), tfrunner.monitor("quiet") as record:
        record.log(1, name="x", **FEATURE)
        raise KeyError
    with tfrunner.monitor("quiet"):
        pass
    folder.finish()
    assert list(folder.path.iterdir()) == []


def test_threads_log_whole_lines(folder: Folder) -> None:
    """Blocks of several threads do not get mixed."""

    def work(thread: int) -> None:
        for number in range(200):
            with tfrunner.monitor("threads") as record:
                record.log(thread, name="thread", **FEATURE)
                record.log(number, name="number", **FEATURE)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    found = sorted((line["thread"], line["number"]) for line in folder.lines("threads"))
    assert found == [(thread, number) for thread in range(8) for number in range(200)]


MISUSES: dict[str, tuple[list[tuple[Any, ...]], str]] = {
    "role": ([(1, "x", "features", "numerical")], "Did you mean 'feature'"),
    "data type": ([(1, "x", "feature", "number")], "data_type of 'x' is 'number'"),
    "no name": ([(1, "", "feature", "numerical")], "cannot name a value"),
    "the server's name": ([(1, "time", "feature", "numerical")], "time and request_id are ours"),
    "twice": ([(1, "x", *FEATURE.values())] * 2, "'x' is logged twice"),
    "otherwise than before": ([(1, "known", "target", "categorical")], "was 'feature numerical'"),
    "no form": ([(object(), "x", *FEATURE.values())], "a object has no form in JSON"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_a_named_error_where_it_happens(folder: Folder, case: str) -> None:
    """It is a fault of the Service's, not of its caller's."""
    with tfrunner.monitor("misuse") as record:
        record.log(1, name="known", **FEATURE)
    calls, expected = MISUSES[case]
    with pytest.raises(StateError, match=expected), tfrunner.monitor("misuse") as record:
        for call in calls:
            record.log(*call)


def test_columns_of_a_batch_have_equal_lengths(folder: Folder) -> None:
    """A line of one row only would be wrong for all."""
    with pytest.raises(StateError, match="has 2 values"), tfrunner.monitor("b") as record:
        record.log_batch([1, 2, 3], name="x", **FEATURE)
        record.log_batch([1, 2], name="y", **FEATURE)
    with pytest.raises(StateError, match="mixed"), tfrunner.monitor("b") as record:
        record.log_batch([1], name="x", **FEATURE)
        record.log(1, name="y", **FEATURE)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 101, 5])
def test_a_monitors_name_is_a_folders(name: Any) -> None:
    """No monitor writes elsewhere."""
    with pytest.raises(StateError, match="cannot name a monitor"):
        tfrunner.monitor(name)


def test_a_record_that_is_too_large_is_dropped_with_a_line_in_the_log(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """Once; the others are written."""
    for text in ("x" * LARGEST_LINE, "small", "y" * LARGEST_LINE):
        with tfrunner.monitor("large") as record:
            record.log(text, name="text", role="feature", data_type="categorical")
    assert [line["text"] for line in folder.lines("large")] == ["small"]
    assert sum("records above" in line for line in caplog.messages) == 1


def test_a_flood_is_dropped_and_does_not_fill_the_memory(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """While the thread is busy only so many bytes wait; who logs never waits."""
    import threading

    writer, busy, go_on = MONITORS.writer, threading.Event(), threading.Event()

    def stand_still() -> list[bytes]:
        busy.set()
        assert go_on.wait(20)
        return []

    with caplog.at_level(logging.WARNING):
        writer.put("flood", stand_still, size=0)
        assert busy.wait(20)
        for number in range(20):
            with tfrunner.monitor("flood") as record:
                record.log("x" * (MOST_WAITING // 10), name="text", **FEATURE)  # type: ignore[arg-type]
                record.log(number, name="number", **FEATURE)  # type: ignore[arg-type]
        assert writer._size <= MOST_WAITING
        go_on.set()
        kept = [line["number"] for line in folder.lines("flood")]
    assert kept == list(range(len(kept)))
    assert 5 <= len(kept) <= 10
    dropped = [line for line in caplog.messages if "dropped" in line]
    assert len(dropped) == 2
    assert f"{20 - len(kept)} records were dropped" in dropped[1]


def texts(*shape: int, text: bytes = b"a") -> Any:
    """Return an array of texts, as a request of a model brings them."""
    return np.full(shape, text, object)


CALLS: dict[str, tuple[Any, Any]] = {
    "one text": (texts(), "a"),
    "rows of texts": (texts(2, 1), [["a"], ["a"]]),
    "many texts": (
        texts(MOST_NUMBERS + 1),
        {"shape": [MOST_NUMBERS + 1], "dtype": "object", "omitted": MOST_NUMBERS + 1},
    ),
}


def follow(array: Any) -> None:
    """Have a call of a model written down that takes an array and gives it back."""
    spec = TensorSpec("x", "string", array.shape)
    echo = method("echo", ("x", spec), output=spec, batchable=False)

    async def answer() -> None:
        future = asyncio.get_running_loop().create_future()
        log = PredictLog({"texts": 1.0}, MONITORS.writer, chance=random.Random())
        log.follow(future, model(echo, name="texts"), echo, cast(echo, [array], {}))
        future.set_result(Answer([array], spec))
        await asyncio.sleep(0)

    asyncio.run(answer())


@pytest.mark.parametrize("case", CALLS)
def test_calls_with_texts_are_written_down(folder: Folder, case: str) -> None:
    """Of any rank; of too many it is said that they are left out."""
    array, expected = CALLS[case]
    follow(array)
    (line,) = folder.lines("texts")
    assert (line["inputs"], line["outputs"]) == ({"x": expected}, expected)


def test_calls_count_for_the_memory_that_their_texts_take(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """A few long ones are as much as many numbers."""
    follow(texts(2, text=b"x" * (MOST_WAITING // 4)))
    folder.finish()
    assert "are dropped" in caplog.messages[0]
    assert "faster than they are written" in caplog.messages[0]


def test_it_is_public() -> None:
    """Under the name that users of BentoML know."""
    assert tfrunner.monitor is monitoring.monitor

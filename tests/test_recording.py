"""`tfrunner serve --record`: what is taken down of real requests, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tfrunner.cli import main
from tfrunner.simulator.traces import read_trace
from tfrunner.testing import serve


def test_a_recorded_server_can_be_simulated(tmp_path: Path):
    """Times, rows and keys of every request; none of their contents."""
    file = tmp_path / "trace.jsonl"
    file.write_text("left from another day\n")
    with serve("echo", echo=True, record=file) as client:
        for rows in (1, 2, 3):
            client.predict("echo", np.full((rows, 2), 77.5, "float32"))
        client.predict("echo", np.full((1, 4), 77.5, "float32"))
    trace = read_trace(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["rows"] for line in lines] == [1, 2, 3, 1]
    assert len({line["key"] for line in lines}) == 2  # two widths cannot share a batch
    assert sorted(line["time"] for line in lines) == [line["time"] for line in lines]
    assert set().union(*lines) <= {"time", "rows", "key", "client"}
    assert trace.rows.tolist() == [1, 2, 3, 1]


def test_a_recording_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Before anything is started."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--echo", "echo", "--record", str(tmp_path / "no" / "such")])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: the recording ") and "there is no folder" in error

"""The processes of in_process.py, started, asked to measure, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from benchmarks.peers.load import Missing, Outcome

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = Path(__file__).with_name("in_process.py")
END_SECONDS = 10.0


class Caller:
    """One such process.

    Args:
        words: What the script is told.
        environment: Beside this process's own.
    """

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self._words = words
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it has checked its answers.

        Raises:
            Missing: It ended before.
        """
        paths = os.pathsep.join((str(ROOT), str(ROOT / "workers")))
        environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "2"}
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *self._words],
            env={**environment, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read("READY")

    def measure(self, *, rows: int, callers: int, seconds: float) -> Outcome:
        """Let it call for so long.

        Raises:
            Missing: It has ended.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rows} {callers} {seconds}\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._read("RESULT ")))

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used."""
        assert self._process is not None
        return sum(psutil.Process(self._process.pid).cpu_times()[:2])

    def _read(self, prefix: str) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(prefix):
                return line.removeprefix(prefix)
        raise Missing(f"{SCRIPT.name} {' '.join(self._words)} ended before it was ready")

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

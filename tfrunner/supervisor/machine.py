"""What this machine has: GPUs, and the cores that this process may use."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tfrunner.errors import ConfigError
from tfrunner.processes import raise_descriptor_limit
from tfrunner.supervisor.placement import listed_gpus, masked_gpus

NVIDIA_SMI_SECONDS = 15.0

LEAST_FILES = 129
"""Files that an api process must be able to open; with fewer it serves no connection."""


def allow_open_files() -> None:
    """Let this process, and those that it starts, open as many files as the system allows.

    The dispatcher needs one for each gateway and client.

    Raises:
        ConfigError: It allows too few to serve anything.
    """
    limit = raise_descriptor_limit()
    if limit < LEAST_FILES:
        raise ConfigError(
            f"a process may open {limit} files here; a server needs at least {LEAST_FILES} for "
            "each of its processes. Raise the limit with `ulimit -n`."
        )


def find_gpus(mask: str | None, listing: Callable[[], str]) -> tuple[str, ...]:
    """Return the ids of the GPUs that may be used.

    Args:
        mask: The user's CUDA_VISIBLE_DEVICES, None where it is not set; it is believed.
        listing: Gives the text of `nvidia-smi -L`; only asked where there is no mask.
    """
    return listed_gpus(listing()) if mask is None else masked_gpus(mask)


def nvidia_smi() -> str:
    """Return the text of `nvidia-smi -L`, "" where there is no such program or no GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def count_cores(root: Path = Path("/")) -> int:
    """Return how many cores may be used: those of the CPU mask, at most the cgroup's quota.

    Args:
        root: Where `proc` and `sys` are found.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = min(cgroup_quotas(root), default=math.inf)
    return max(1, math.ceil(min(cores or 1, quota)))


def cgroup_quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of this process's cgroup and of those above it.

    `cpu.max` of version 2 holds "quota period" or "max period", version 1 two files.
    Source: the kernel's admin-guide/cgroup-v2 and scheduler/sched-bwc.
    """
    for folder in _cgroup_folders(root):
        quota, period = _words(folder / "cpu.max", count=2)
        if quota is None:
            (quota,) = _words(folder / "cpu.cfs_quota_us", count=1)
            (period,) = _words(folder / "cpu.cfs_period_us", count=1)
        if quota is not None and period is not None and quota > 0 and period > 0:
            yield quota / period


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Yield the folders, deepest first, that may hold a CPU quota for this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if kinds else "")
        inner = Path(path.lstrip("/"))
        for folder in (inner, *inner.parents):
            yield mount / folder


def _words(path: Path, *, count: int) -> tuple[float | None, ...]:
    """Return the numbers in a file, None for each that is missing or no number."""
    try:
        words = path.read_text().split()
    except OSError:
        words = []
    numbers = [float(word) if word.lstrip("-").isdecimal() else None for word in words]
    return tuple((*numbers, *[None] * count)[:count])

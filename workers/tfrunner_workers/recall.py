"""What was learned of a model before, as its next worker uses it: plans, and how many threads.

TensorFlow fixes the number of threads for a process, so a worker must know it before it loads.
"""

from __future__ import annotations

from tfrunner import learned_file
from tfrunner.config import WorkerConfig, home
from tfrunner.learned_file import Plan
from tfrunner_workers.devices import CPU, device_class

SMALL_SECONDS = 0.002
"""CPU time of a full batch below which one thread is enough. The second thread must be woken for
each operation: an MLP 784-512-512-10 takes 104 us at one row with two threads, 43 us with one
(64 rows: 577 and 769 us), and what the other cores do meanwhile is the server's own work."""


def plans(config: WorkerConfig, threads: int) -> dict[str, Plan]:
    """Return how the methods were executed on such a device with so many threads, by method."""
    own = device_class(config.device, threads)
    found = [k for k in learned_file.read_all(home(), config.model.tag) if k.device_class == own]
    return {name: plan for kept in found for name, plan in kept.plans.items()}


def threads(config: WorkerConfig) -> int:
    """Return how many of its cores a worker should use: one, or all.

    One if every method's full batch is known to cost little with all of them. To be asked once
    TensorFlow is imported: its version is part of what a device is called by.
    """
    if config.device != CPU or config.threads == 1:
        return config.threads
    known = plans(config, config.threads).values()
    is_small = bool(known) and all(0 < plan.cpu_seconds < SMALL_SECONDS for plan in known)
    return 1 if is_small else config.threads

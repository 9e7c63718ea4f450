"""What a worker is started with, and the model that it serves."""

from __future__ import annotations

import msgspec

from tfrunner.defaults import DEFAULTS
from tfrunner.observation import Observation
from tfrunner.options import RunnableSource


class ServedModel(msgspec.Struct, frozen=True):
    """A model as it is served.

    Args:
        tag: `name:version`; what requests name.
        spec: The encoded ModelSpec that gateways get.
        path: Folder of the model version; "" for a model that has none.
        max_batch_size: Most rows in one batch.
        kind: What its workers host: "tensorflow", "runnable" or "echo".
        runnable: The class that they host, where it is one.
        method_sizes: Most rows in one batch of single methods.
        xla: Whether its methods may be compiled by XLA, which takes seconds at each start.
    """

    tag: str
    spec: bytes
    path: str = ""
    max_batch_size: int = DEFAULTS.max_batch_size
    queue_requests: int = DEFAULTS.queue_requests
    queue_bytes: int = DEFAULTS.queue_bytes
    kind: str = "tensorflow"
    runnable: RunnableSource | None = None
    method_sizes: dict[str, int] = {}
    xla: bool = False

    def batch_size(self, method: str) -> int:
        """Return the most rows in one batch of a method."""
        return self.method_sizes.get(method, self.max_batch_size)

    @property
    def largest_batch(self) -> int:
        """The most rows in one batch of any method."""
        return max(self.max_batch_size, *self.method_sizes.values(), 1)


class WorkerConfig(msgspec.Struct, frozen=True):
    """What a worker process is started with.

    Args:
        name: Name of the worker, unique for each process start.
        device: "cpu", or the GPU's id as CUDA_VISIBLE_DEVICES names it.
        threads: Cores that this worker may use.
        recycle_requests: Leave after so many answers; 0: never.
        recycle_memory: Leave when so many MB are resident; 0: never.
    """

    name: str
    backend: str
    model: ServedModel
    device: str = "cpu"
    threads: int = 1
    recycle_requests: int = DEFAULTS.recycle_requests
    recycle_memory: int = DEFAULTS.recycle_memory
    parent: int = 0
    grace: float = DEFAULTS.grace
    observation: Observation = Observation()
    log_level: str = DEFAULTS.log_level


class SpareConfig(msgspec.Struct, frozen=True):
    """What a spare is started with: a process that may become any worker.

    Args:
        name: Name of the spare, unique for each process start.
        kind: What it will host: "tensorflow", "runnable" or "echo".
    """

    name: str
    kind: str = "tensorflow"
    parent: int = 0
    log_level: str = DEFAULTS.log_level


class NewRole(msgspec.Struct, frozen=True):
    """What a spare is told once, on its standard input: which worker it is from now on.

    Args:
        config: The worker's.
        environment: What the worker's environment has to say.
    """

    config: WorkerConfig
    environment: dict[str, str]

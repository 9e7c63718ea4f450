"""Which worker runs where: one device and a share of the cores for each. Pure.

1. A worker sees exactly one GPU, or none; none if its model cannot use one.
2. GPUs are those that the user left visible, by the ids the user gave.
3. Cores are shared out over all workers; none gets fewer than one, and one that cannot use
   several gets no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tfrunner.config import check_positive
from tfrunner.errors import ConfigError

CPU = "cpu"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by the math libraries that a model's Python code may bring along."""


class Placement(msgspec.Struct, frozen=True):
    """Where one worker runs.

    Args:
        model: Tag of its model.
        number: Counts the workers of that model, from 0.
        device: "cpu", or the GPU's id as CUDA_VISIBLE_DEVICES names it.
        threads: Cores that it may use.
        environment: What its process's environment has to say.
    """

    model: str
    number: int
    device: str
    threads: int
    environment: dict[str, str]


def masked_gpus(mask: str) -> tuple[str, ...]:
    """Return the GPUs that a CUDA_VISIBLE_DEVICES leaves visible.

    As in CUDA, an id that is none (-1) hides itself and all that follow; UUIDs count as given.
    """
    gpus: list[str] = []
    for item in mask.split(","):
        gpu = item.strip()
        if not gpu.isdecimal() and not gpu.startswith(("GPU-", "MIG-")):
            break
        gpus.append(gpu)
    return tuple(gpus)


def listed_gpus(listing: str) -> tuple[str, ...]:
    """Return the GPUs that `nvidia-smi -L` lists, by UUID; of a divided GPU its instances."""
    gpus: list[str] = []
    whole: str | None = None
    for line in listing.splitlines():
        name = line.strip()
        _, found, rest = name.partition("(UUID: ")
        if not found:
            continue
        uuid = rest.rstrip(")")
        if name.startswith("GPU "):
            whole = uuid
            gpus.append(uuid)
        elif name.startswith("MIG "):
            if whole is not None:
                gpus.remove(whole)
                whole = None
            gpus.append(uuid)
    return tuple(gpus)


class Demand(msgspec.Struct, frozen=True):
    """What the workers of one model need.

    Args:
        model: Its tag.
        workers: How many; 0: as many as for every other model.
        uses_gpu: Whether they use a GPU where there is one.
        needs_gpu: Whether they cannot do without.
        is_multithreaded: Whether one uses several cores. Otherwise each gets one, and without
            a GPU and a number there is one worker for each core.
    """

    model: str
    workers: int = 0
    uses_gpu: bool = True
    needs_gpu: bool = False
    is_multithreaded: bool = True


def place(
    demands: Sequence[Demand],
    *,
    workers: int = 0,
    workers_per_gpu: int = 1,
    gpus: Sequence[str] = (),
    cores: int = 1,
) -> tuple[Placement, ...]:
    """Give every worker its device and its cores.

    Args:
        demands: One for each model.
        workers: Workers of each model; 0: `workers_per_gpu` on each GPU, or one without a GPU.
        workers_per_gpu: How many workers of a model share a GPU.
        gpus: Ids of the GPUs.
        cores: Cores of the machine that may be used.

    Raises:
        ConfigError: A number is out of range, or a model needs a GPU where there is none.
    """
    check_positive("workers", workers, least=0)
    check_positive("workers_per_gpu", workers_per_gpu)
    check_positive("cores", cores)
    places: list[tuple[Demand, int, str]] = []
    on_gpus = 0  # workers so far that use a GPU
    for demand in demands:
        if demand.needs_gpu and not gpus:
            raise ConfigError(f"{demand.model} needs a GPU, and none is visible.")
        is_on_gpu = demand.uses_gpu and bool(gpus)
        alone = 1 if demand.is_multithreaded else cores
        default = len(gpus) * workers_per_gpu if is_on_gpu else alone
        for number in range(demand.workers or workers or default):
            device = gpus[on_gpus // workers_per_gpu % len(gpus)] if is_on_gpu else CPU
            on_gpus += is_on_gpu
            places.append((demand, number, device))
    shares = share_between([demand.is_multithreaded for demand, _, _ in places], cores)
    return tuple(
        Placement(demand.model, number, device, threads, environment_for(device, threads))
        for (demand, number, device), threads in zip(places, shares, strict=True)
    )


def share_between(are_multithreaded: Sequence[bool], cores: int) -> list[int]:
    """Return the cores of each worker: one for those of one thread, the others share the rest."""
    single = are_multithreaded.count(False)
    shares = iter(share_cores(max(0, cores - single), are_multithreaded.count(True)))
    return [next(shares) if several else 1 for several in are_multithreaded]


def share_cores(cores: int, workers: int) -> list[int]:
    """Return the cores of each worker: all are used, none is shared while there are enough."""
    least, over = divmod(cores, workers) if workers else (0, 0)
    return [max(1, least + (index < over)) for index in range(workers)]


def environment_for(device: str, threads: int) -> dict[str, str]:
    """Return what a worker's environment says about its device and its cores."""
    visible = "-1" if device == CPU else device
    return {
        "CUDA_VISIBLE_DEVICES": visible,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
    }

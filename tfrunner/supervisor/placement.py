"""Which worker runs where: one device and a share of the cores for each. Pure.

1. A worker sees exactly one GPU, or none.
2. GPUs are those that the user left visible, by the ids the user gave.
3. Cores are shared out over all workers; none gets fewer than one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tfrunner.config import check_positive

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


def place(
    models: Sequence[str],
    *,
    workers: int = 0,
    workers_per_gpu: int = 1,
    gpus: Sequence[str] = (),
    cores: int = 1,
) -> tuple[Placement, ...]:
    """Give every worker its device and its cores.

    Args:
        models: Tags of the models, each once.
        workers: Workers of each model; 0: `workers_per_gpu` on each GPU, or one without a GPU.
        workers_per_gpu: How many workers of a model share a GPU.
        gpus: Ids of the GPUs.
        cores: Cores of the machine that may be used.

    Raises:
        ConfigError: A number is out of range.
    """
    check_positive("workers", workers, least=0)
    check_positive("workers_per_gpu", workers_per_gpu)
    check_positive("cores", cores)
    each = workers or max(1, len(gpus) * workers_per_gpu)
    shares = share_cores(cores, len(models) * each)
    placements = []
    for index, threads in enumerate(shares):
        device = gpus[index // workers_per_gpu % len(gpus)] if gpus else CPU
        placements.append(
            Placement(
                model=models[index // each],
                number=index % each,
                device=device,
                threads=threads,
                environment=environment_for(device, threads),
            )
        )
    return tuple(placements)


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

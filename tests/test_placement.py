"""Which worker runs where, with made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfrunner.errors import ConfigError
from tfrunner.supervisor.machine import count_cores, find_gpus
from tfrunner.supervisor.placement import Demand, place

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-22222222-bbbb)
"""
DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-11111111-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d)
  MIG 3g.20gb     Device  1: (UUID: MIG-b2df4f4e-ce1f)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-22222222-bbbb)
"""


def devices(*, models: int = 1, **options) -> list[str]:
    """Return the devices of the workers of `models` models."""
    placed = place([Demand(f"m{number}:1") for number in range(models)], **options)
    assert all(p.environment["CUDA_VISIBLE_DEVICES"] == p.device for p in placed)
    return [p.device for p in placed]


@pytest.mark.parametrize(
    ("gpus", "workers", "per_gpu", "expected"),
    [
        ("0 1", 0, 1, "0 1"),
        ("0 1", 0, 2, "0 0 1 1"),
        ("2 7", 0, 1, "2 7"),
        ("2 7", 0, 2, "2 2 7 7"),
        ("0 1", 1, 1, "0"),
        ("0 1", 3, 1, "0 1 0"),
        ("0 1", 4, 2, "0 0 1 1"),
        ("GPU-a MIG-b", 0, 1, "GPU-a MIG-b"),
    ],
)
def test_each_worker_sees_exactly_one_gpu(gpus, workers, per_gpu, expected):
    """Workers fill a GPU up to its number, then go to the next."""
    got = devices(gpus=gpus.split(), workers=workers, workers_per_gpu=per_gpu)
    assert got == expected.split()


def test_single_workers_of_several_models_go_to_different_gpus():
    """One worker for each of two models: not both on the first GPU."""
    assert devices(models=2, gpus=("0", "1"), workers=1) == ["0", "1"]


def test_by_default_every_model_is_on_every_gpu():
    """Without a number each model has a worker on each GPU."""
    assert devices(models=2, gpus=("0", "1")) == ["0", "1", "0", "1"]


@pytest.mark.parametrize(
    ("models", "workers", "cores", "expected"),
    [
        (1, 0, 4, [4]),
        (1, 2, 4, [2, 2]),
        (1, 3, 8, [3, 3, 2]),
        (1, 4, 2, [1, 1, 1, 1]),
        (2, 0, 8, [4, 4]),
        (3, 2, 8, [2, 2, 1, 1, 1, 1]),
    ],
)
def test_without_a_gpu_the_cores_are_shared_out(models, workers, cores, expected):
    """Every core is used once, and no worker has none."""
    placed = place(
        [Demand(f"m{number}:1") for number in range(models)], workers=workers, cores=cores
    )
    assert [p.threads for p in placed] == expected
    assert [p.environment["OMP_NUM_THREADS"] for p in placed] == [str(n) for n in expected]
    assert {p.device for p in placed} == {"cpu"}
    assert {p.environment["CUDA_VISIBLE_DEVICES"] for p in placed} == {"-1"}


def test_workers_are_counted_for_each_model():
    """Model and number name a worker."""
    placed = place([Demand("a:1"), Demand("b:1")], workers=2, cores=4)
    assert [(p.model, p.number) for p in placed] == [("a:1", 0), ("a:1", 1), ("b:1", 0), ("b:1", 1)]


@pytest.mark.parametrize(
    ("demands", "options", "expected"),
    [
        ([{"is_multithreaded": False}], {"cores": 3}, "a cpu 1 | a cpu 1 | a cpu 1"),
        ([{"is_multithreaded": False, "workers": 1}], {"cores": 3}, "a cpu 1"),
        ([{"is_multithreaded": False}], {"cores": 3, "workers": 2}, "a cpu 1 | a cpu 1"),
        ([{"workers": 2}, {}], {"cores": 6}, "a cpu 2 | a cpu 2 | b cpu 2"),
        (
            [{"is_multithreaded": False, "workers": 2}, {}],
            {"cores": 6},
            "a cpu 1 | a cpu 1 | b cpu 4",
        ),
        ([{"is_multithreaded": False}, {}], {"cores": 2}, "a cpu 1 | a cpu 1 | b cpu 1"),
        ([{"uses_gpu": False}, {}], {"cores": 2, "gpus": ("4", "5")}, "a cpu 1 | b 4 1 | b 5 1"),
        ([{"needs_gpu": True}], {"cores": 2, "gpus": ("4",)}, "a 4 2"),
        ([{"is_multithreaded": False}], {"cores": 9, "gpus": ("4",)}, "a 4 1"),
    ],
)
def test_models_may_need_different_things(demands, options, expected):
    """No GPU, a number of workers of their own, one thread for each worker."""
    wanted = [Demand(name, **each) for name, each in zip("ab", demands, strict=False)]
    placed = place(wanted, **options)
    assert " | ".join(f"{p.model} {p.device} {p.threads}" for p in placed) == expected


def test_a_model_that_needs_a_gpu_is_refused_where_there_is_none():
    """By its name."""
    with pytest.raises(ConfigError, match="m:1 needs a GPU"):
        place([Demand("m:1", needs_gpu=True)], cores=2)


def test_no_model_needs_no_worker():
    """A server of Services without models has only api processes."""
    assert place([], cores=4) == ()


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"workers_per_gpu": 0}, {"cores": 0}])
def test_impossible_numbers_are_refused(wrong):
    """The message names the setting."""
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        place([Demand("m:1")], **wrong)


@pytest.mark.parametrize(
    ("mask", "listing", "expected"),
    [
        ("2,7", LISTING, ("2", "7")),
        (" 1 , 0 ", LISTING, ("1", "0")),
        ("GPU-11111111,MIG-x", LISTING, ("GPU-11111111", "MIG-x")),
        ("", LISTING, ()),
        ("-1", LISTING, ()),
        ("0,-1,1", LISTING, ("0",)),
        ("NoDevFiles", LISTING, ()),
        (None, LISTING, ("GPU-11111111-aaaa", "GPU-22222222-bbbb")),
        (None, DIVIDED, ("MIG-c7384736-a75d", "MIG-b2df4f4e-ce1f", "GPU-22222222-bbbb")),
        (None, "", ()),
        (None, "No devices found.\n", ()),
    ],
)
def test_gpus_are_those_that_the_user_left_visible(mask, listing, expected):
    """The user's mask counts first, then what nvidia-smi lists."""
    assert find_gpus(mask, lambda: listing) == expected


def test_nvidia_smi_is_not_asked_where_there_is_a_mask():
    """The mask may hide GPUs that nvidia-smi knows."""

    def listing() -> str:
        raise AssertionError("asked")

    assert find_gpus("-1", listing) == ()


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """Write a made-up `/proc` and `/sys/fs/cgroup`; dots in names stand for slashes."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu_max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"a__b__cpu_max": "max 100000\n", "a__cpu_max": "50000 100000\n"}, 1),
        ("0::/a\n", {"a__cpu_max": "1000000000 100000\n"}, None),
        ("0::/\n", {"cpu_max": "max 100000\n"}, None),
        (
            "4:cpu,cpuacct:/box\n1:name=systemd:/\n",
            {"cpu__box__cpu_cfs_quota_us": "100000\n", "cpu__box__cpu_cfs_period_us": "100000\n"},
            1,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"},
            None,
        ),
        ("0::/\n", {}, None),
    ],
)
def test_cores_are_bounded_by_the_cgroup(tmp_path, cgroup, files, quota):
    """A quota of the group, or of one above it, counts; version 1 and 2."""
    unbounded = count_cores(tmp_path / "nothing")
    assert unbounded >= 1
    assert count_cores(machine(tmp_path, cgroup, **files)) == (quota or unbounded)

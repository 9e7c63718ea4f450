"""A worker's share of the machine: its one device and its threads, set before TensorFlow starts.

The supervisor puts CUDA_VISIBLE_DEVICES into the process's environment; here TensorFlow is
told the rest. Thread counts are fixed by the first session or eager context of a process.
"""

from __future__ import annotations

import logging
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

from tfrunner.config import set_default_environment
from tfrunner.errors import ConfigError
from tfrunner.framework import without_chatter
from tfrunner_workers.splitting import THREADS

logger = logging.getLogger("tfrunner.worker")

CPU = "cpu"


def import_tensorflow(device: str, threads: int) -> str:
    """Import TensorFlow with its log turned down, and give it one device and some threads.

    Args:
        device: "cpu", or the GPU's id as CUDA_VISIBLE_DEVICES names it.
        threads: Cores that this process may use.

    Returns:
        TensorFlow's name of the device.

    Raises:
        ConfigError: TensorFlow is not installed, or does not see the GPU.
    """
    set_default_environment(OMP_NUM_THREADS=str(threads))
    if device == CPU and threads == THREADS:  # a session that is told to use one thread uses one
        set_default_environment(TF_OVERRIDE_GLOBAL_THREADPOOL="1")
    tf = load_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return _choose(tf.config, device)


def device_class(device: str, threads: int) -> str:
    """Return a name that is equal for devices on which a batch costs the same.

    Processor or GPU, threads, and the version of TensorFlow where there is one.

    Args:
        device: "cpu", or the GPU's id.
        threads: Cores that this process may use.
    """
    tf = sys.modules.get("tensorflow")
    parts = [f"tensorflow {tf.__version__}"] if tf is not None else []
    if device == CPU or tf is None:
        return ", ".join([_processor(), f"{threads} threads", *parts])
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return ", ".join([str(details.get("device_name", "GPU")), *parts])


def _processor() -> str:
    """Return the processor's name, as Linux gives it; elsewhere its kind."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def load_tensorflow() -> Any:
    """Import TensorFlow with its log turned down; devices and threads are not started yet.

    Raises:
        ConfigError: TensorFlow is not installed.
    """
    set_default_environment(TF_CPP_MIN_LOG_LEVEL="2")
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    logger.info("importing TensorFlow ...")
    started = time.perf_counter()
    try:
        with without_chatter():
            import tensorflow as tf
    except ImportError as exc:
        raise ConfigError(
            f"TensorFlow cannot be imported ({exc}). Install it with "
            "`pip install tfrunner[cpu]`, or `pip install tfrunner[gpu]` for NVIDIA GPUs."
        ) from exc
    logger.info(
        "importing TensorFlow %s took %.1f s", tf.__version__, time.perf_counter() - started
    )
    return tf


def _choose(config: Any, device: str) -> str:
    """Show TensorFlow exactly one device, and let its memory grow."""
    gpus = config.list_physical_devices("GPU")
    if device == CPU:
        config.set_visible_devices([], "GPU")
        return "/CPU:0"
    if not gpus:
        raise ConfigError(
            f"this worker was given GPU {device}, but TensorFlow sees none. Install the GPU build "
            "with `pip install tfrunner[gpu]`, or serve without GPUs: CUDA_VISIBLE_DEVICES=''."
        )
    config.set_visible_devices(gpus[:1], "GPU")
    config.experimental.set_memory_growth(gpus[0], True)
    return "/GPU:0"

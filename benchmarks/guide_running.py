"""The guide's measurements of how a model is run: signatures, batches, XLA, conversion."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import guide_models as models
from benchmarks.guide_timing import shown, table, take_turns
from benchmarks.on_and_off import SCRIPT, drive

ROWS = (1, 8, 64)
CALLS = 32
CONNECTIONS = (1, 32)
ROUNDS = 5
ROUND_SECONDS = 2.0


def functions(*, threads: int, seconds: float) -> str:
    """Return the MLP eagerly, restored, and as a worker runs it; then what retracing costs."""
    import tensorflow as tf

    network = models.trained("MLP")
    loaded = models.load(network, "mlp", threads=threads)
    ways: dict[str, models.Run] = {
        "the layers, eagerly": lambda rows: network(tf.constant(rows), training=False).numpy(),
        "restored function, one signature": loaded.reference,
        f"as served ({loaded.plan})": loaded.run,
    }
    return side_by_side(ways, images("MLP"), seconds=seconds) + "\n\n" + retracing()


def retracing() -> str:
    """Return what 32 calls with another factor each take, with and without a signature."""
    import tensorflow as tf

    network = models.trained("MLP")
    rows = tf.constant(images("MLP")[:8])

    def scale(x: Any, factor: Any) -> Any:
        return network(x, training=False) * factor

    specs = [tf.TensorSpec([None, 784], tf.float32), tf.TensorSpec([], tf.float32)]
    kinds = {
        "no signature: `f(x, 0.1)`, `f(x, 0.2)`, ...": tf.function(scale),
        "`input_signature`, the factor a tensor of rank 0": tf.function(
            scale, input_signature=specs
        ),
    }
    lines = []
    for name, function in kinds.items():
        started = time.perf_counter()
        for number in range(CALLS):
            function(rows, number / CALLS)
        spent = (time.perf_counter() - started) / CALLS
        traces = function.experimental_get_tracing_count()
        lines.append([name, str(traces), f"{spent * 1e3:.2f}"])
    return table([f"MLP, {CALLS} calls, each with another factor", "traces", "ms a call"], lines)


def batching(*, threads: int, seconds: float) -> str:
    """Return rows a second at 1 and 64 rows a call, in this process and behind the server."""
    lines = []
    for name in models.NETWORKS:
        run, rows = (
            models.load(models.trained(name), name.lower(), threads=threads).run,
            images(name),
        )
        many, one = rows[:64], rows[:1]
        timed = take_turns(
            {
                "1": lambda run=run, one=one: run(one),
                "64": lambda run=run, many=many: run(many),
            },
            seconds=seconds,
        )
        rates = [1e6 / timed["1"].median, 64e6 / timed["64"].median]
        gain = f"{64 * timed['64'].gain:.1f}"
        lines.append([name, *(f"{rate:,.0f}" for rate in rates), gain])
    header = ["in this process, rows/s", "1 row a call", "64 rows a call", "times"]
    return table(header, lines) + "\n\n" + served()


def served() -> str:
    """Return requests a second of the MLP with batching and without, one row each."""
    from tfrunner.testing import serve

    if shutil.which("wrk") is None:
        return "wrk is not installed: nothing was measured behind the server."
    network, signatures = models.trained("MLP"), {"__call__": {"batchable": True}}
    row = np.round(images("MLP")[0], 3).tolist()
    lines = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(network, signatures=signatures) as on,
        serve(network, signatures=signatures, no_batching=True) as off,
    ):
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT.replace("{}", f'{{"instances": [{row}]}}'))
        for connections in CONNECTIONS:
            runs = [
                [drive(server, script, connections, ROUND_SECONDS) for server in (on, off)]
                for _ in range(ROUNDS)
            ]
            medians = np.median(np.array(runs), axis=0)
            ratio = np.median([one[0] / other[0] for one, other in runs])
            cells = [f"{rate:,.0f}/s, {p50:.1f} ms, {p99:.1f} ms" for rate, p50, p99 in medians]
            lines.append([str(connections), *cells, f"{ratio:.2f}"])
    header = [
        "MLP served, JSON, connections",
        "batching: rate, p50, p99",
        "`--no-batching`",
        "times",
    ]
    return table(header, lines)


def xla(*, threads: int, seconds: float) -> str:
    """Return both networks as served, and compiled by XLA."""
    from tfrunner_workers import savedmodel, ways

    found = []
    for name in models.NETWORKS:
        loaded = models.load(models.trained(name), name.lower(), threads=threads)
        model = savedmodel.load(loaded.path.parent, device="/CPU:0")
        settings = ways.Settings(limit=models.LIMIT, threads=threads, xla=True)
        (first, *_) = ways.find_ways(model, model.spec.methods["__call__"], settings)
        compiled = first[ways.XLA]().run
        started = time.perf_counter()
        for rows in ROWS:
            compiled([images(name)[:rows]])
        spent = time.perf_counter() - started
        kinds: dict[str, models.Run] = {
            f"{name}, {loaded.plan}": loaded.run,
            f"{name}, XLA ({len(ROWS)} sizes compiled in {spent:.1f} s)": _of_arrays(compiled),
        }
        found.append(side_by_side(kinds, images(name), seconds=seconds))
    return join(found)


def _of_arrays(run: Any) -> models.Run:
    return lambda rows: run([rows]).arrays[0]


def conversion(*, threads: int, seconds: float) -> str:
    """Return what is gained from Keras to the SavedModel to the plan, and by TFLite."""
    from benchmarks.guide_smaller import tflite

    found = []
    for name in models.NETWORKS:
        network = models.trained(name)
        loaded = models.load(network, name.lower(), threads=threads)
        kinds: dict[str, models.Run] = {
            f"{name}, Keras `predict_on_batch`": network.predict_on_batch,
            f"{name}, SavedModel, restored": loaded.reference,
            f"{name}, as served ({loaded.plan})": loaded.run,
            f"{name}, TFLite float32": tflite(network, ROWS, threads=threads).run,
        }
        found.append(side_by_side(kinds, images(name), seconds=seconds))
    return join(found)


def images(name: str) -> Any:
    """Return the held-out images as that network takes them."""
    return models.rows_for(models.trained(name), models.digits().held_out)


def side_by_side(kinds: dict[str, models.Run], rows: Any, *, seconds: float) -> str:
    """Return a table: what each takes at several numbers of rows, and the ratio to the first."""
    columns = []
    for size in ROWS:
        part = rows[:size]
        calls = {name: lambda run=run, part=part: run(part) for name, run in kinds.items()}
        columns.append(take_turns(calls, seconds=seconds))
    header = ["a call", *(f"{size} row{'s' if size > 1 else ''}" for size in ROWS)]
    return table(header, [[name, *(shown(column[name]) for column in columns)] for name in kinds])


def join(tables: list[str]) -> str:
    """Return tables of one header as one."""
    first, *others = (each.splitlines() for each in tables)
    return "\n".join([*first, *(line for lines in others for line in lines[2:])])

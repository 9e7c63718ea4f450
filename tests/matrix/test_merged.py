"""Requests of several callers in one batch: each gets its own rows, as alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tests.matrix.world import World, same, save_seed
from tfrunner.testing import serve

pytestmark = pytest.mark.tensorflow

MERGED = [
    ("__call__", [[[1.0, 2, 3, 4, 5]], [[0.0] * 5, [1.0] * 5], [[2.0] * 5]], "native"),
    ("predict_ragged", [[[1.0]], [[1.0, 2.0], []], [[3.0] * 5]], "native"),
    ("__call__", [[[float(n)] * 5] for n in range(3)], "functional"),
]
"""Inputs of three callers at once: method, inputs, model."""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a server that starts no batch before three requests of one key wait."""
    folder = tmp_path_factory.mktemp("held")
    models = save_seed(folder)
    chosen = {name: models[name] for name in ("native", "functional")}
    with serve(*chosen.values(), hold=3) as client:
        yield World(chosen, client)


@pytest.mark.parametrize(
    ("method", "inputs", "model"), MERGED, ids=["dense", "ragged", "keras functional"]
)
def test_rows_of_several_callers_are_merged_and_come_back(
    held: World, method: str, inputs: list[Any], model: str
) -> None:
    """One batch for three callers; each gets its own rows, as alone."""
    tag = str(held.models[model].tag)
    before = held.client.status()["models"][tag]["batch_rows"]
    start = Barrier(len(inputs))

    def call(rows: Any) -> Any:
        start.wait(30)
        return held.client.predict(model, rows, method=method)

    with ThreadPoolExecutor(len(inputs)) as pool:
        answers = list(pool.map(call, inputs))
    after = held.client.status()["models"][tag]["batch_rows"]
    total = str(sum(map(len, inputs)))
    assert after.get(total, 0) == before.get(total, 0) + 1
    run = held.local(model).method(method).run
    for rows, answer in zip(inputs, answers, strict=True):
        same(answer, run(rows))

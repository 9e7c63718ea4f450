"""The API that tfrunner promises, as users of BentoML's TensorFlow runners write it.

Saving the three kinds of models, testing a runner locally, building a Service, and batching:
with real models, and through real processes.
"""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import numpy as np
import pytest

import tfrunner
from tfrunner.testing import serve

pytestmark = pytest.mark.tensorflow

SERVICE = """
import tfrunner
from tfrunner.io import JSON, JSONSerializable

runner = tfrunner.tensorflow.get("my_tf_model").to_runner()

svc = tfrunner.Service(name="test_service", runners=[runner])


@svc.api(input=JSON(), output=JSON())
async def predict(json_obj: JSONSerializable) -> JSONSerializable:
    batch_ret = await runner.async_run([json_obj])
    return batch_ret[0]


@svc.api(input=JSON(), output=JSON())
def predict_sync(json_obj: JSONSerializable) -> JSONSerializable:
    return runner.run([json_obj])[0]
"""


@pytest.mark.parametrize("kind", ["native", "sequential", "functional"])
def test_each_kind_of_model_is_saved_and_runs_locally(home: Path, kind: str):
    """`save(model, name)`, `get`, `to_runner`, `init_local`, `run` and `__call__.run`."""
    from tests import models

    make = {
        "native": models.NativeModel,
        "sequential": models.keras_sequential,
        "functional": models.keras_functional,
    }[kind]
    tfrunner.tensorflow.save(make(), "my_model")
    runner = tfrunner.tensorflow.get("my_model").to_runner()
    runner.init_local(quiet=True)
    expected = np.full((1, 6 if kind == "functional" else 1), 15.0)
    for given in ([[1, 2, 3, 4, 5]], np.array([[1, 2, 3, 4, 5]]), np.arange(1.0, 6.0)[None]):
        assert np.array_equal(runner.__call__.run(given), expected)
        assert np.array_equal(runner.run(given), expected)
    runner.destroy()


def test_a_model_of_several_tensors(home: Path):
    """Positional or by name; a scalar among them."""
    from tests.models import MultiInputModel

    tfrunner.tensorflow.save(MultiInputModel(), "my_tf_model")
    runner = tfrunner.tensorflow.get("my_tf_model").to_runner()
    runner.init_local(quiet=True)
    x = [[1, 2, 3, 4, 5]]
    assert runner.run(x, x, 3.0).tolist() == [[60.0]]
    assert runner.run(x1=x, x2=x, factor=3).tolist() == [[60.0]]
    runner.destroy()


def test_the_service_of_the_page_answers_over_http(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Sync and async endpoints; api processes that never import TensorFlow."""
    from tests.models import NativeModel

    tfrunner.tensorflow.save(
        NativeModel(), "my_tf_model", signatures={"__call__": {"batchable": True, "batch_dim": 0}}
    )
    (tmp_path / "seed_service.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    with serve("seed_service:svc") as client:
        with httpx.Client(base_url=client.http_address) as http:
            for path in ("/predict", "/predict_sync"):
                answer = http.post(path, json=[1, 2, 3, 4, 5])
                assert (answer.status_code, answer.json()) == (200, [15.0]), answer.text
            wrong = http.post("/predict", json=[1, 2, 3])
            assert wrong.status_code == 400 and "[?, 5]" in wrong.text
        status = client.status()
        rss = {row["kind"]: row["rss"] for row in status["processes"]}
        assert rss["api"] < 200e6 < rss["worker"], "only the worker has imported TensorFlow"


def test_requests_of_two_clients_are_merged(home: Path):
    """The page's promise: one call of the model with [[1,2,3,4,5], [6,7,8,9,0]]."""
    from tests.models import NativeModel

    model = tfrunner.tensorflow.save(
        NativeModel(), "test_model", signatures={"__call__": {"batchable": True, "batchdim": 0}}
    )
    with serve(model, hold=2) as client:
        runners = [tfrunner.tensorflow.get("test_model").to_runner() for _ in range(2)]
        sums: dict[int, list[list[float]]] = {}

        def call(number: int, inputs: list[list[int]]) -> None:
            runners[number].init_client(client.address)
            sums[number] = runners[number].run(inputs).tolist()
            runners[number].destroy()

        threads = [
            threading.Thread(target=call, args=(0, [[1, 2, 3, 4, 5]])),
            threading.Thread(target=call, args=(1, [[6, 7, 8, 9, 0]])),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sums == {0: [[15.0]], 1: [[30.0]]}
        (counted,) = client.status()["models"].values()
        assert counted["batch_rows"] == {"2": 1}


def test_a_method_that_is_not_batchable_gets_exactly_the_input(home: Path):
    """The default signature: the model is always called with what the caller gave."""
    from tests.models import MultiOutputModel

    with serve(MultiOutputModel()) as client:
        twice, same = client.predict("model", np.array([[1, 2, 3, 4, 5]]))
        assert twice.dtype == np.float32 and twice.tolist() == [[2, 4, 6, 8, 10]]
        assert same.tolist() == [[1, 2, 3, 4, 5]]

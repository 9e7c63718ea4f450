"""Runners of saved models with options: fixed arguments, and models inside the api process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import LIMIT
from tfrunner import Model, Runner, tensorflow
from tfrunner.errors import ConfigError, DeadlineExceeded, InvalidInput
from tfrunner.tensorflow import ModelOptions
from tfrunner.testing import ServedClient, serve

pytestmark = pytest.mark.tensorflow

X = [[1, 2, 3, 4, 5]]
FACTOR = {"__call__": {"factor": 3.0}}

SERVICE = """
import tfrunner
from tfrunner.io import JSON

model = tfrunner.models.get("factor").with_options(partial_kwargs={"__call__": {"factor": 3.0}})
factor = model.to_runner(max_batch_size=8, max_latency_ms=30_000)
inside = tfrunner.models.get("sums").to_runner(embedded=True)
svc = tfrunner.Service("svc", runners=[factor, inside])

@svc.api(input=JSON(), output=JSON())
async def partial(x):
    return await factor.async_run(x, x)

@svc.api(input=JSON(), output=JSON())
async def own(x):
    return await factor.async_run(x, x, 2)

@svc.api(input=JSON(), output=JSON())
async def embedded(x):
    return await inside.async_run(x)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a store with two models; it is the default one."""
    import tensorflow as tf

    from tests.models import NativeModel

    class Factor(tf.Module):  # type: ignore[misc, name-defined]
        """x1 + x2 * factor, row by row; the factor is the same for all rows."""

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 5], tf.float64, name="x1"),
                tf.TensorSpec([None, 5], tf.float64, name="x2"),
                tf.TensorSpec([], tf.float64, name="factor"),
            ]
        )
        def __call__(self, x1: Any, x2: Any, factor: Any) -> Any:
            return tf.reduce_sum(x1 + x2 * factor, axis=1, keepdims=True)

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFRUNNER_HOME", str(home))
        batchable = {"__call__": {"batchable": True}}
        tensorflow.save(Factor(), "factor", signatures=batchable)
        tensorflow.save(NativeModel(), "sums", signatures=batchable)
        yield home


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServedClient]:
    """Return a client of a server of the Service."""
    (models / "options_service.py").write_text(SERVICE)
    with serve(f"{models}/options_service.py:svc") as client:
        yield client


def get(**options: Any) -> Model:
    """Return the model with a factor of 3, or with other fixed arguments."""
    return tensorflow.get("factor").with_options(**(options or {"partial_kwargs": FACTOR}))


def check(runner: Runner) -> None:
    """Check what every runner with a factor of 3 answers, wherever its model is."""
    assert runner.run(X, X).tolist() == [[60.0]]
    assert runner.run(X, x2=X).tolist() == [[60.0]]
    assert runner.run(X, X, factor=1).tolist() == [[30.0]]
    assert runner.run(X, X, 2).tolist() == [[45.0]]
    with pytest.raises(InvalidInput, match="was not given 'x2'"):
        runner.run(X)


def test_fixed_arguments_are_merged_in_this_process(models: Path) -> None:
    """What the caller gives goes before, by name and by position."""
    with get().to_runner() as runner:
        runner.init_local(quiet=True)
        check(runner)
    with tensorflow.get("factor").to_runner() as runner:
        runner.init_local(quiet=True)
        with pytest.raises(InvalidInput, match="was not given 'factor'"):
            runner.run(X, X)
    given = ModelOptions(partial_kwargs=FACTOR)
    assert tensorflow.get("factor").with_options(given).options == given


def test_fixed_arguments_are_merged_for_a_running_server(
    models: Path, server: ServedClient
) -> None:
    """The model itself knows nothing of them."""
    with get().to_runner() as runner:
        runner.init_client(server.address)
        check(runner)


def test_fixed_arguments_are_merged_in_a_service(server: ServedClient) -> None:
    """By the runner of the endpoint."""
    with httpx.Client(base_url=server.http_address, trust_env=False, timeout=LIMIT) as http:
        assert http.post("/partial", json=X).json() == [[60.0]]
        assert http.post("/own", json=X).json() == [[45.0]]


def test_an_embedded_model_answers_in_the_api_process(server: ServedClient) -> None:
    """No worker serves it."""
    with httpx.Client(base_url=server.http_address, trust_env=False, timeout=LIMIT) as http:
        assert http.post("/embedded", json=X).json() == [[15.0]]
        assert [each["name"] for each in http.get("/v1/models").json()["models"]] == ["factor"]
    assert "runner sums is embedded" in server.log.read_text()


def test_a_services_runner_asks_for_its_bounds(server: ServedClient) -> None:
    """Rows of a batch, as the dispatcher knows them."""
    with httpx.Client(base_url=server.http_address, trust_env=False, timeout=LIMIT) as http:
        (model,) = http.get("/v1/status").json()["models"].values()
    assert model["max_batch_size"] == 8


@pytest.mark.parametrize(
    ("partial", "expected"),
    [
        ({"__cal__": {"factor": 3}}, "no method '__cal__'. Did you mean '__call__'"),
        ({"__call__": {"faktor": 3}}, "no argument 'faktor'. Did you mean 'factor'"),
    ],
    ids=["method", "argument"],
)
def test_fixed_arguments_that_do_not_exist(
    models: Path, partial: dict[str, Any], expected: str
) -> None:
    """Refused when the runner is made."""
    with pytest.raises(ConfigError, match=expected):
        get(partial_kwargs=partial).to_runner()


def test_a_runners_latency_is_the_timeout_of_its_local_calls(models: Path) -> None:
    """In an event loop, where a call can be given up."""
    import asyncio

    with get().to_runner(method_configs={"__call__": {"max_latency_ms": 0.001}}) as runner:
        runner.init_local(quiet=True)
        with pytest.raises(DeadlineExceeded, match="1e-06 s"):
            asyncio.run(runner.async_run(X, X))
        assert asyncio.run(runner.async_run(X, X, timeout=LIMIT)).tolist() == [[60.0]]

"""What the matrix is run in: saved models, a server of them, and the ways to call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pandas

import tfrunner
from tests.matrix.cases import Case
from tfrunner.client import Client
from tfrunner.entry import Model
from tfrunner.testing import ServedClient

BATCHABLE = {"__call__": {"batchable": True}}


def save_seed(folder: Path) -> dict[str, Model]:
    """Save the models of the seed page."""
    from tests.matrix import models
    from tests.models import keras_functional, keras_sequential

    every = {"__call__": {"batchable": True}, "predict_ragged": {"batchable": True}}
    saved = [
        tfrunner.tensorflow.save(models.SeedModel(), "native", signatures=every, home=folder),
        tfrunner.tensorflow.save(models.MultiInputModel(), "inputs", home=folder),
        tfrunner.tensorflow.save(models.MultiOutputModel(), "outputs", home=folder),
        tfrunner.tensorflow.save(models.PolymorphicModel(), "polymorphic", home=folder),
        tfrunner.tensorflow.save(
            keras_functional(), "functional", signatures=BATCHABLE, home=folder
        ),
        tfrunner.tensorflow.save(
            keras_sequential(), "sequential", signatures=BATCHABLE, home=folder
        ),
    ]
    return {model.info.name: model for model in saved}


def save_values(folder: Path) -> dict[str, Model]:
    """Save one model with a method for every kind of value, and models from elsewhere."""
    from tests import models_v1
    from tests.matrix import models

    models_v1.linear(folder / "exported")
    predict = {"predict": {"batchable": True}}
    save = tfrunner.tensorflow.save
    saved = [
        save(models.ValuesModel(), "values", signatures=models.VALUES, home=folder),
        tfrunner.keras.save(models.subclassed(), "subclassed", signatures=predict, home=folder),
        tfrunner.keras.save(models.narrow(), "narrow", signatures=predict, home=folder),
        save(models.two_inputs(), "ranker", signatures=BATCHABLE, home=folder),
        save(models.FrameModel(), "frame", signatures=BATCHABLE, home=folder),
        save(folder / "exported", "old", home=folder),
    ]
    return {model.info.name: model for model in saved}


class World:
    """The saved models of one group, a server of them, and runners in this process."""

    def __init__(self, models: dict[str, Model], client: ServedClient) -> None:
        self.models = models
        self.client = client
        self.runners = {name: model.to_runner() for name, model in models.items()}

    def local(self, name: str) -> tfrunner.Runner:
        """Return the runner of a model that is loaded in this process."""
        runner = self.runners[name]
        if not runner.is_initialized:
            runner.init_local(quiet=True)
        return runner


def same(got: Any, wanted: Any, *, dtypes: bool = True) -> None:
    """Check two results: structure, dtype and shape; numbers within the tolerance of the dtype."""
    if isinstance(wanted, dict):
        assert isinstance(got, dict)
        assert list(got) == list(wanted) or sorted(got) == sorted(wanted)
        for key, value in wanted.items():
            same(got[key], value, dtypes=dtypes)
    elif isinstance(wanted, (list, tuple)):
        assert type(got) is type(wanted) or not dtypes
        assert len(got) == len(wanted)
        for one, value in zip(got, wanted, strict=True):
            same(one, value, dtypes=dtypes)
    elif wanted is None:
        assert got is None
    elif isinstance(wanted, np.ndarray) and wanted.dtype == object and wanted.ndim == 1:
        assert len(got) == len(wanted)
        for one, value in zip(got, wanted, strict=True):
            same(one, value, dtypes=dtypes)
    elif isinstance(wanted, bytes):
        assert (got.encode() if isinstance(got, str) else got) == wanted
    else:
        same_numbers(np.asarray(got), np.asarray(wanted), dtypes=dtypes)


def same_numbers(got: np.ndarray, wanted: np.ndarray, *, dtypes: bool) -> None:
    """Check two arrays."""
    if wanted.dtype == object:
        assert [text.encode() if isinstance(text, str) else text for text in got.flat] == [
            *wanted.flat
        ]
        return
    if dtypes:
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
    if wanted.dtype.kind in "iub":
        np.testing.assert_array_equal(got, wanted)
        return
    tolerance = 1e-2 if wanted.dtype.itemsize == 2 else 1e-6
    np.testing.assert_allclose(
        got.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, equal_nan=True
    )


Way = Callable[[World, Case], Any]


def by_runner(world: World, case: Case) -> Any:
    """Call in this process."""
    return world.local(case.model).method(case.method).run(*case.args, **case.kwargs)


def by_client(world: World, case: Case) -> Any:
    """Call the dispatcher directly."""
    return world.client.predict(case.model, *case.args, method=case.method, **case.kwargs)


def by_http(world: World, case: Case) -> Any:
    """Call over HTTP, with MessagePack."""
    with Client(world.client.http_address) as client:
        return client.predict(case.model, *case.args, method=case.method, **case.kwargs)


WAYS = {"local": by_runner, "client": by_client, "http": by_http}


def by_json(world: World, case: Case) -> Any:
    """Call over HTTP with named inputs and whole tensors in JSON, as `curl` does."""
    spec = world.models[case.model].spec.methods[case.method]
    forms = [form for form in spec.of_variants() if len(form.arguments) >= len(case.args)]
    names = [argument.name for argument in forms[-1 if len(case.args) > 1 else 0].arguments]
    inputs: Any = {**dict(zip(names, case.args, strict=False)), **case.kwargs}
    if len(case.args) == 1 and isinstance(case.args[0], pandas.DataFrame) and len(names) > 1:
        inputs = case.args[0]
    body = {"inputs": as_json(inputs)}
    if case.method not in ("__call__", "serving_default", "predict"):
        body["signature_name"] = case.method
    reply = httpx.post(
        f"{world.client.http_address}/v1/models/{case.model}:predict",
        content=json.dumps(body),
        timeout=60,
    )
    assert reply.status_code == 200, reply.text
    return json.loads(reply.content)["outputs"]


def same_in_json(got: Any, wanted: Any) -> None:
    """Check a result that came as JSON: it has names, not positions, and no dtypes."""
    if isinstance(wanted, tuple):
        got = tuple(got.values())
    elif isinstance(wanted, dict) and len(wanted) == 1:
        (wanted,) = wanted.values()
    same(got, wanted, dtypes=False)


def as_json(value: Any) -> Any:
    """Return a case's value as JSON's kinds of values."""
    if isinstance(value, pandas.DataFrame):
        if list(value.columns) == [*range(len(value.columns))]:
            return value.to_numpy().tolist()
        return {name: value[name].tolist() for name in value.columns}
    if isinstance(value, dict):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if isinstance(value, np.ndarray):
        value = value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value

"""Serve a frozen graph of TensorFlow 1: `tfrunner serve service.py:svc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tfrunner
from tfrunner.io import JSON
from tfrunner.specs import TensorSpec

GRAPH = Path(__file__).parent / "graph.pb"


class FrozenGraph(tfrunner.Runnable):
    """A graph in a session; constructed in each worker, where alone TensorFlow is imported."""

    SUPPORTED_RESOURCES = ("nvidia.com/gpu", "cpu")

    def __init__(self, path: str, fetch: str) -> None:
        import tensorflow.compat.v1 as tf

        definition = tf.GraphDef.FromString(Path(path).read_bytes())
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(definition, name="")
        session = tf.Session(graph=graph)
        self._run = session.make_callable(fetch, feed_list=["x:0"])

    @tfrunner.Runnable.method(batchable=True, input_spec=TensorSpec("x", "float32", (None, 4)))
    def predict(self, x: Any) -> Any:
        """Return three probabilities for each row."""
        return self._run(x)


runner = tfrunner.Runner(
    FrozenGraph,
    name="frozen_graph",
    runnable_init_params={"path": str(GRAPH), "fetch": "probabilities:0"},
)
svc = tfrunner.Service("frozen_graph_service", runners=[runner])


@svc.api(input=JSON(), output=JSON())
async def classify(row: Any) -> Any:
    """Return the most probable class of one row of four numbers."""
    probabilities = await runner.predict.async_run([row])
    return int(probabilities[0].argmax())

"""Build a frozen graph as TensorFlow 1 wrote them: variables are constants, no signatures.

`python build.py` writes graph.pb beside this file: four numbers in, three probabilities out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

GRAPH = Path(__file__).parent / "graph.pb"
SEED = 1


def build() -> tf.GraphDef:
    """Return a small network, trained by nobody, with its variables as constants."""
    random = np.random.default_rng(SEED)
    graph = tf.Graph()
    with graph.as_default(), tf.Session(graph=graph) as session:
        x = tf.placeholder(tf.float32, [None, 4], name="x")
        first = tf.Variable(random.normal(size=(4, 16)).astype("float32"))
        second = tf.Variable(random.normal(size=(16, 3)).astype("float32"))
        hidden = tf.nn.relu(tf.matmul(x, first))
        tf.nn.softmax(tf.matmul(hidden, second), name="probabilities")
        session.run(tf.global_variables_initializer())
        return tf.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ["probabilities"]
        )


if __name__ == "__main__":
    GRAPH.write_bytes(build().SerializeToString())
    print(f"wrote {GRAPH}")

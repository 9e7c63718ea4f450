"""The models that pages may have from the start: `<!-- has: linear -->`.

`python tests/docs_stock.py` saves them into $TFRUNNER_HOME.
"""

from __future__ import annotations

from typing import Any


def linear() -> Any:
    """Return the quickstart's model: the sum of five numbers."""
    import tensorflow as tf

    return tf.keras.Sequential(
        [
            tf.keras.Input((5,), name="x"),
            tf.keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
        ]
    )


STOCK = {"linear": linear}

if __name__ == "__main__":
    import tfrunner

    for name, make in STOCK.items():
        tfrunner.tensorflow.save(
            make(), f"{name}:first", signatures={"__call__": {"batchable": True}}
        )

"""Train a Keras model whose inputs are the columns of a table.

`python train.py` learns from the diabetes study that scikit-learn brings along (442 patients; ten
measurements; how far the illness went in a year), saves the model as "progression", and writes
patients that it has not seen to patients.csv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import tfrunner

PATIENTS = Path(__file__).parent / "patients.csv"
SEED = 6


def load() -> tuple[Any, Any, Any, Any]:
    """Return tables of patients to learn from and held-out ones, then the progression of each."""
    data = load_diabetes(as_frame=True, scaled=False)
    patients = data.data.astype("float32")
    learn, held_out, learned, wanted = train_test_split(patients, data.target, random_state=SEED)
    return learn, held_out, learned, wanted


def make(patients: Any) -> Any:
    """Return a network with an input for each column, which is scaled as these patients need."""
    inputs = {name: keras.Input((1,), name=name) for name in patients.columns}
    scaled = []
    for name, column in inputs.items():
        scaling = keras.layers.Normalization(
            mean=float(patients[name].mean()), variance=float(patients[name].var())
        )
        scaled.append(scaling(column))
    hidden = keras.layers.Concatenate()(scaled)
    for _ in range(2):
        hidden = keras.layers.Dense(32, activation="relu", kernel_regularizer="l2")(hidden)
    return keras.Model(inputs, keras.layers.Dense(1, name="progression")(hidden))


def train() -> tuple[Any, str]:
    """Return the trained network, and how far it is off for patients that it has not seen."""
    keras.utils.set_random_seed(SEED)
    learn, held_out, learned, wanted = load()
    network = make(learn)
    network.compile(keras.optimizers.Adam(0.003), "mae")
    network.fit(as_columns(learn), learned, epochs=60, verbose=0)
    off = abs(network.predict_on_batch(as_columns(held_out))[:, 0] - wanted).mean()
    guess = abs(learned.median() - wanted).mean()
    held_out.head().to_csv(PATIENTS, index=False)
    return network, f"off by {off:.0f} on average; the median alone by {guess:.0f}"


def as_columns(patients: Any) -> dict[str, Any]:
    """Return the columns by name, each as [n, 1]."""
    return {name: patients[[name]].to_numpy() for name in patients.columns}


if __name__ == "__main__":
    network, quality = train()
    saved = tfrunner.tensorflow.save(
        network, "progression", signatures={"__call__": {"batchable": True}}
    )
    print(f"{quality}; saved {saved.tag}")

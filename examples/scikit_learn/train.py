"""Train a classifier of handwritten digits on the data that scikit-learn brings along.

`python train.py` writes digits.joblib beside this file.
"""

from __future__ import annotations

from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MODEL = Path(__file__).parent / "digits.joblib"


def train() -> float:
    """Write the trained model; return its accuracy on images that it has not seen."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(parts[0], parts[2])
    joblib.dump(model, MODEL)
    return float(model.score(parts[1], parts[3]))


if __name__ == "__main__":
    print(f"accuracy {train():.3f}; wrote {MODEL}")

"""Ask the server, and compare with this process: `python call.py [http://127.0.0.1:8000]`."""

from __future__ import annotations

import io
import sys
import urllib.request

import numpy as np
import pandas
from service import runner
from train import load

import tfrunner

FORMS = ("application/json", "text/csv")


def main(address: str) -> int:
    """Return 0 if every answer of the server is the one of this process."""
    _, patients, _, _ = load()
    runner.init_local(quiet=True)
    expected = runner.run(patients)
    with tfrunner.Client(address) as client:
        got = client.predict("progression", patients)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for form in FORMS:
        body = write(patients[patients.columns[::-1]], form)
        request = urllib.request.Request(
            f"{address}/foresee", data=body, headers={"Content-Type": form}
        )
        with urllib.request.urlopen(request) as reply:
            answer = pandas.read_json(io.BytesIO(reply.read()))
        np.testing.assert_allclose(answer["progression"], expected[:, 0], rtol=1e-5)
    print(f"{len(patients)} answers equal those of this process")
    return 0


def write(patients: pandas.DataFrame, form: str) -> bytes:
    """Return the table as JSON (a list of objects) or CSV."""
    is_csv = form == "text/csv"
    text = patients.to_csv(index=False) if is_csv else patients.to_json(orient="records")
    return text.encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))

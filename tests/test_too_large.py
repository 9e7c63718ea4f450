"""Requests that the queue could never hold: refused once, with the reason."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from tfrunner.errors import TooLarge
from tfrunner.testing import serve


def test_what_never_fits_is_refused_once_and_says_why() -> None:
    """A client does not send it again until its timeout; HTTP says 413, without Retry-After."""
    with serve("echo", echo=True, queue_bytes=1000) as client:
        with pytest.raises(
            TooLarge, match=r"8\d\d\d bytes, more than the queue of echo.* \(1000\)"
        ):
            client.predict("echo", np.zeros((1000, 2), np.float32), timeout=60)
        refused = httpx.post(
            f"{client.http_address}/v1/models/echo:predict",
            json={"instances": [[1.0, 2.0]] * 1000},
            timeout=60,
            trust_env=False,
        )
        assert refused.status_code == 413, refused.text
        assert refused.json()["code"] == "too_large"
        assert "Retry-After" not in refused.headers
        (ledger,) = client.status()["models"].values()
        assert ledger["refused"] == {"too_large": 2}
        np.testing.assert_array_equal(client.predict("echo", [[1.0, 2.0]]), [[1.0, 2.0]])

"""Headers that say whose a request is, how urgent, and that ask where its time went."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tfrunner.api.predict import PARTS
from tfrunner.testing import ServedClient, serve

BODY = {"instances": [[1.0, 2.0]]}


@pytest.fixture(scope="module")
def server() -> Iterator[ServedClient]:
    """Return a server of the echo model."""
    with serve("echo", echo=True) as client:
        yield client


def predict(server: ServedClient, **headers: str) -> httpx.Response:
    """Ask for a prediction."""
    url = f"{server.http_address}/v1/models/echo:predict"
    return httpx.post(url, json=BODY, headers=headers, timeout=30)


def test_an_answer_says_where_its_time_went_if_asked(server: ServedClient):
    """Queue, gather, run, scatter in milliseconds; together less than the whole."""
    assert "server-timing" not in predict(server).headers
    reply = predict(server, **{"X-Server-Timing": "1"})
    named = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    assert tuple(named) == PARTS
    assert 0 < sum(map(float, named.values())) < 1e3 * reply.elapsed.total_seconds()
    assert reply.json() == {"predictions": [[1.0, 2.0]]}


def test_the_workers_time_is_counted_by_client_under_a_hash(server: ServedClient):
    """A key shows up nowhere."""
    for name in ("a secret key", "another"):
        assert predict(server, **{"X-Client": name}).status_code == 200
    named = server.status()["models"]["echo:1"]["client_seconds"]
    assert len(named) >= 2
    assert "secret" not in str(named)
    page = httpx.get(f"{server.http_address}/metrics", timeout=30).text
    assert "secret" not in page


@pytest.mark.parametrize("text", ["-8", "0", "8"])
def test_priorities_within_the_bounds_are_taken(server: ServedClient, text: str):
    """Nobody starves, so anybody may ask."""
    assert predict(server, **{"X-Priority": text}).status_code == 200


@pytest.mark.parametrize("text", ["9", "-9", "1.5", "high", ""])
def test_other_priorities_are_refused(server: ServedClient, text: str):
    """With what was expected."""
    reply = predict(server, **{"X-Priority": text})
    assert reply.status_code == 400
    assert "from -8 to 8" in reply.json()["error"]

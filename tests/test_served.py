"""Which model and which method a name means."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator

import pytest

from tests.gateway_world import METHOD, MODEL, FakeDispatcher
from tfrunner import protocol as p
from tfrunner.errors import NotFound
from tfrunner.gateway import Gateway
from tfrunner.served import find_model
from tfrunner.specs import MethodSpec, ModelSpec


@pytest.fixture
def address() -> Iterator[str]:
    """Give an address with a short path."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as path:
        yield f"ipc://{path}/f"


VERSIONS = tuple(
    ModelSpec("m", version, serial, {"__call__": METHOD})
    for serial, version in enumerate(("a1b2", "a1c3", "b7", "2"), start=1)
)


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("m", None, "2"),
        ("m", "latest", "2"),
        ("m:latest", None, "2"),
        ("m:a1b2", None, "a1b2"),
        ("m", "a1c3", "a1c3"),
        ("m", "b", "b7"),
        ("m", "a1b", "a1b2"),
        ("m", "3", "b7"),
        ("m", "2", "2"),  # a version goes before a serial number
    ],
)
def test_a_model_is_found_by_name_and_version(name: str, version: str | None, found: str) -> None:
    """By tag, version, serial number, unique prefix or `latest`, and nothing else."""
    assert find_model(VERSIONS, name, version).version == found


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("n", None, "Did you mean 'm'|There are: m"),
        ("m", "a1", "2 versions .*a1b2, a1c3"),
        ("m", "9", "no version '9'.*b7"),
        ("m:nothing", None, "no version 'nothing'"),
        ("m", "", "no version ''"),
    ],
)
def test_a_model_that_is_not_served_is_refused_with_what_is(
    name: str, version: str | None, says: str
) -> None:
    """The message names what there is."""
    with pytest.raises(NotFound, match=says):
        find_model(VERSIONS, name, version)


def test_a_method_is_found_by_name_or_by_default() -> None:
    """`__call__` or the only method is the default; otherwise the methods are named."""
    encode, decode = MethodSpec("encode", ()), MethodSpec("decode", ())
    only = ModelSpec("only", "1", 1, {"encode": encode})
    both = ModelSpec("both", "1", 1, {"encode": encode, "decode": decode})
    gateway = Gateway("ipc:///nowhere", name="g")
    assert gateway.method(MODEL, None) is METHOD
    assert gateway.method(only, None) is encode
    assert gateway.method(both, "decode") is decode
    with pytest.raises(NotFound, match="encode, decode"):
        gateway.method(both, None)
    with pytest.raises(NotFound, match="Did you mean 'decode'"):
        gateway.method(both, "decod")


def test_a_gateway_finds_the_models_of_its_dispatcher(address: str) -> None:
    """Also the second time, and after a new dispatcher has come with others."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        async with FakeDispatcher(address, models=VERSIONS[:1]):
            await gateway.open()
            assert [gateway.find("m").version for _ in range(2)] == ["a1b2", "a1b2"]
        async with FakeDispatcher(address, epoch="epoch-2", models=VERSIONS) as second:
            while (await second.next(p.Hello)).epoch != "epoch-2":
                pass
            assert [gateway.find("m").version for _ in range(2)] == ["2", "2"]
            await gateway.close()

    asyncio.run(story())

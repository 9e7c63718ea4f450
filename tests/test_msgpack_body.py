"""`application/x-msgpack` bodies: what they say, and that none is ever unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest

from tests.api_world import ECHO, X, Y, tensor
from tfrunner import packing
from tfrunner.answer import Answer
from tfrunner.api.msgpack_body import MsgpackCall, read_msgpack, write_msgpack
from tfrunner.errors import InvalidInput, NotFound, TFRunnerError
from tfrunner.specs import DictSpec, MethodSpec, TupleSpec
from tfrunner.tensors import Array, decode_layout, unpack

ROWS = np.array([[1, 2], [3, 4]], "float32")


def read(body: Any) -> MsgpackCall:
    """Return what a body (or what is packed into one) asks the echo model for."""

    def find(name: str | None) -> MethodSpec:
        chosen = name or "__call__"
        if chosen not in ECHO.methods:
            raise NotFound(f"no method {chosen!r}")
        return ECHO.methods[chosen]

    return read_msgpack(body if isinstance(body, bytes) else packing.pack(body), find_method=find)


def arrays(found: MsgpackCall) -> list[Array]:
    """Return a call's tensors."""
    return unpack(decode_layout(found.call.layout), found.call.bodies, found.call.rows)


def test_a_body_names_inputs_method_and_timeout() -> None:
    """All three; method and timeout may be left out."""
    found = read({"inputs": {"x": ROWS, "scale": 3.0}, "method": "scaled", "timeout": 2})
    assert (found.method.name, found.timeout) == ("scaled", 2.0)
    first, second = arrays(found)
    assert np.array_equal(first, ROWS)
    assert second == 3.0
    plain = read({"inputs": {"x": ROWS}})
    assert (plain.method.name, plain.timeout, plain.call.rows) == ("__call__", None, 2)
    assert np.array_equal(arrays(read({"inputs": ROWS}))[0], ROWS)


def test_msgpack_numpy_of_others_is_understood() -> None:
    """A body that msgpack-numpy itself packed."""
    body = msgpack.packb({"inputs": {"x": ROWS.astype("float64")}}, default=msgpack_numpy.encode)
    (array,) = arrays(read(body))
    assert array.dtype == np.float32
    assert np.array_equal(array, ROWS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        packing.pack([1, 2]),
        packing.pack({"input": 5}),
        packing.pack({"inputs": {"x": ROWS}, "signature": "y"}),
        packing.pack({"inputs": {"x": ROWS}, "method": 5}),
        packing.pack({"inputs": {"x": ROWS}, "timeout": "soon"}),
        packing.pack({"inputs": {"x": ROWS}, "timeout": True}),
        packing.pack({"inputs": {"x": ROWS}, "timeout": 0}),
        packing.pack({"inputs": {"x": ROWS}, "timeout": float("nan")}),
        packing.pack({"inputs": {"z": ROWS}}),
        packing.pack({"inputs": {"x": ROWS[0]}}),
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_request_is_refused_with_400(body: bytes) -> None:
    """Whatever the bytes are: an error of ours that is the caller's fault."""
    with pytest.raises(TFRunnerError) as caught:
        read(body)
    assert caught.value.status == 400


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", [b"O", "O"], ids=["bytes", "text"])
@pytest.mark.parametrize("letters", ["|O", "O8", "<f4", [["f", "|O"]]], ids=str)
def test_a_body_with_a_pickle_is_refused_and_not_run(
    tmp_path: Path, kind: Any, letters: Any
) -> None:
    """A real malicious body: msgpack-numpy would run it, we refuse it."""
    mark = tmp_path / "ran"
    bomb = {b"nd": True, b"type": letters, b"kind": kind, b"shape": [1]}
    bomb[b"data"] = pickle.dumps(Bomb(mark))
    body = msgpack.packb({"inputs": {"x": bomb}})
    if kind == b"O":  # the body does what it says
        msgpack.unpackb(body, object_hook=msgpack_numpy.decode)
        assert mark.exists()
        mark.unlink()
    with pytest.raises(TFRunnerError, match="refused") as caught:
        read(body)
    assert caught.value.status == 400
    assert not mark.exists()


def test_answers_keep_their_structure() -> None:
    """Tuples come as lists, and it is said where; dicts and dtypes are kept."""
    single = packing.unpack(write_msgpack(Answer([ROWS], Y)))
    assert set(single) == {"outputs"}
    assert single["outputs"].dtype == np.float32
    words = np.array([b"a", b"\xff"], dtype=object)
    pair = Answer([ROWS, words], TupleSpec((X, tensor("w", "string", None))))
    document = packing.unpack(write_msgpack(pair))
    assert document["tuples"] == [[]]
    assert document["outputs"][1].tolist() == [b"a", b"\xff"]
    nested = Answer([ROWS], DictSpec({"a": DictSpec({"b": X})}))
    assert np.array_equal(packing.unpack(write_msgpack(nested))["outputs"]["a"]["b"], ROWS)


def test_what_fits_no_spec_is_refused() -> None:
    """Casting holds for this form as for the others."""
    with pytest.raises(InvalidInput, match=r"expected float32 \[\?, 2\]"):
        read({"inputs": {"x": np.zeros((2, 3))}})
    with pytest.raises(NotFound):
        read({"inputs": {"x": ROWS}, "method": "nothing"})

"""Binary bodies: .npy, raw tensors, .npz, both ways; each says what JSON says."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api_world import (
    BOTH_WAYS,
    LIMIT,
    FakeGateway,
    X,
    answer,
    echo,
    method,
    model,
    serving,
    tensor,
)
from tfrunner import packing
from tfrunner.answer import Answer
from tfrunner.api.forms import FORMS, JSON, MSGPACK, NPY, NPZ, RAW, form_of, preferred
from tfrunner.api.npy_body import parse_npy
from tfrunner.api.npz_body import output_names, parse_npz
from tfrunner.api.raw_body import parse_raw
from tfrunner.errors import InvalidInput, NotAcceptable, TFRunnerError, TooLarge, UnsupportedForm
from tfrunner.specs import ANY, Argument, DictSpec, ListSpec, MethodSpec, TensorSpec
from tfrunner.tensors import Array

DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
BODY_LIMIT = 2**20
WORDS = tensor("words", "string", None)

OPEN = model(
    *(
        method(f"{name}_{rank}", ("x", tensor("x", name, *[None] * rank)), batchable=rank > 0)
        for name in (*DTYPES, "bfloat16", "complex64")
        for rank in range(4)
    ),
    method("pair", ("a", X), ("b", X)),
    method("words", ("words", WORDS)),
    method("said", ("x", X), output=DictSpec({"a": X, "b": X})),
    method("text", ("x", X), output=WORDS),
    method("ragged", ("x", X), output=TensorSpec("r", "float32", (None, None), 1)),
    method("nested", ("features", DictSpec({"a": X, "b": X}))),
    MethodSpec(
        "scaled", (Argument("x", X), Argument("scale", tensor("scale", "float32"), b"\x02"))
    ),
    name="m",
)


def answering(method: MethodSpec, arrays: list[Array]) -> Answer:
    """Return the inputs, as what the method says that it returns."""
    if method.name == "said":
        return Answer([arrays[0], 2 * arrays[0]], method.output)  # type: ignore[arg-type]
    return echo(method, arrays)


@pytest.fixture(scope="module", **BOTH_WAYS)  # type: ignore[call-overload]
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Return a client of a server."""
    gateway = FakeGateway((OPEN,), answering=answering)
    with (
        serving(gateway, body_limit=BODY_LIMIT, direct=request.param) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        yield client


def post(client: httpx.Client, body: bytes, form: Any, **headers: str) -> httpx.Response:
    """Send a predict request in a form; `x_method` becomes X-Method."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(
        "/v1/models/m:predict",
        content=body,
        headers={"content-type": form.content_type.decode(), **given},
    )


def saved(array: Any, **settings: Any) -> bytes:
    """Return an array as numpy.save writes it."""
    file = io.BytesIO()
    np.save(file, array, **settings)
    return file.getvalue()


def zipped(*arrays: Any, compressed: bool = False, **named: Any) -> bytes:
    """Return arrays as numpy.savez writes them."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, *arrays, **named)
    return file.getvalue()


def raw_headers(array: Any) -> dict[str, str]:
    """Return the headers of a raw tensor."""
    return {
        "x-tensor-dtype": array.dtype.name,
        "x-tensor-shape": ",".join(map(str, array.shape)),
    }


def raw_array(reply: httpx.Response) -> Array:
    """Return the tensor of a raw answer."""
    shape = [int(size) for size in reply.headers["x-tensor-shape"].split(",") if size]
    dtype = reply.headers["x-tensor-dtype"]
    return np.frombuffer(reply.content, dtype).reshape(shape)


# --- the same as JSON --------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    """Return an array of any dtype and up to three axes, each of at least one element."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(1, 4), max_size=3))
    size = int(np.prod(shape, dtype=int))
    whole = draw(st.lists(st.integers(0, 100), min_size=size, max_size=size))
    array = np.array(whole, dtype=dtype if dtype.kind != "f" else "float64").reshape(shape)
    if dtype.kind == "i":
        array = array - np.array(50, dtype)
    return (array / 8 if dtype.kind == "f" else array).astype(dtype)


@settings(deadline=None)
@given(array=tensors(), is_fortran=st.booleans(), is_big=st.booleans())
def test_every_form_gives_what_json_gives(
    client: httpx.Client, array: Array, is_fortran: bool, is_big: bool
) -> None:
    """Over dtypes and shapes; .npy also in Fortran's order and with the other byte order."""
    name = f"{array.dtype.name}_{array.ndim}"
    key = "instances" if array.ndim else "inputs"
    document = {key: array.tolist(), "signature_name": name}
    by_json = post(client, json.dumps(document).encode(), JSON).json()
    (values,) = by_json.values()
    assert values == array.tolist()
    odd = np.asarray(array, order="F" if is_fortran else "C")
    odd = odd.astype(odd.dtype.newbyteorder(">" if is_big else "<"), order="K")

    reply = post(client, saved(odd), NPY, x_method=name)
    assert reply.headers["content-type"] == "application/x-npy"
    assert_equal(np.load(io.BytesIO(reply.content), allow_pickle=False), array)
    headers = raw_headers(array)
    reply = post(client, array.tobytes(), RAW, x_method=name, **headers)
    assert {name: reply.headers[name] for name in headers} == headers
    assert_equal(raw_array(reply), array)
    reply = post(client, zipped(x=odd, compressed=is_big), NPZ, x_method=name)
    (found,) = np.load(io.BytesIO(reply.content), allow_pickle=False).values()
    assert_equal(found, array)
    packed = packing.pack({"inputs": {"x": array}, "method": name})
    assert_equal(packing.unpack(post(client, packed, MSGPACK).content)["outputs"], array)

    for form, body in ((NPY, saved(odd)), (NPZ, zipped(odd)), (RAW, array.tobytes())):
        reply = post(
            client, body, form, x_method=name, accept="application/json", **raw_headers(array)
        )
        assert reply.json() == by_json


def assert_equal(found: Any, expected: Array) -> None:
    """Compare dtype, shape and every element."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_numbers_that_json_has_no_form_for(client: httpx.Client, dtype: str) -> None:
    """As raw tensors both; NumPy's files have no bfloat16, and say what has."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    array = np.array([1.5, -2.25], kind)
    name = f"{dtype}_1"
    reply = post(client, array.tobytes(), RAW, x_method=name, **raw_headers(array))
    assert reply.headers["x-tensor-dtype"] == dtype
    assert reply.content == array.tobytes()
    reply = post(client, saved(np.array([1.5, -2.25], "float32")), NPY, x_method=name)
    if dtype == "complex64":
        assert np.load(io.BytesIO(reply.content)).tolist() == array.tolist()
    else:
        assert reply.status_code == 406
        assert "octet-stream" in reply.json()["error"]
        assert post(client, saved(array), NPY, x_method=name).status_code == 400


def test_no_rows_and_not_finite_numbers(client: httpx.Client) -> None:
    """Empty arrays and NaN go through as they are."""
    for array in (np.zeros((0, 3), "float32"), np.array([[np.nan, -np.inf]], "float32")):
        for form, body in ((NPY, saved(array)), (RAW, array.tobytes())):
            headers = raw_headers(array)
            reply = post(client, body, form, x_method="float32_2", **headers)
            found = raw_array(reply) if form is RAW else np.load(io.BytesIO(reply.content))
            assert found.shape == array.shape
            assert np.array_equal(found, array, equal_nan=True)


def test_several_arrays_by_name_and_by_position(client: httpx.Client) -> None:
    """Inputs and outputs of .npz; a structure's parts by their names."""
    a, b = np.ones((2, 2), "float32"), np.zeros((2, 2), "float32")
    for body in (zipped(a=a, b=b), zipped(b=b, a=a), zipped(a, b)):
        reply = post(client, body, NPZ, x_method="pair")
        found = np.load(io.BytesIO(reply.content))
        assert list(found) == ["out0", "out1"]
        assert np.array_equal(found["out0"], a) and np.array_equal(found["out1"], b)
    reply = post(client, zipped(a=a, b=b), NPZ, x_method="nested")
    assert np.array_equal(np.load(io.BytesIO(reply.content))["out1"], b)
    reply = post(client, saved(a), NPY, x_method="said", accept="application/x-npz")
    assert sorted(np.load(io.BytesIO(reply.content))) == ["a", "b"]


def test_an_input_with_a_default_need_not_be_sent(client: httpx.Client) -> None:
    """A single array is the first input."""
    reply = post(client, saved(np.ones((2, 2), "float32")), NPY, x_method="scaled")
    assert reply.status_code == 406  # it answers with both
    reply = post(
        client,
        saved(np.ones((2, 2), "float32")),
        NPY,
        x_method="scaled",
        accept="application/json",
    )
    assert reply.json()["outputs"]["out1"] == 2.0


def test_outputs_have_names() -> None:
    """Keys, names of tensors, or numbers; inner ones after a slash."""
    inner = DictSpec({"b": X, "c": ListSpec((X, X))})
    assert output_names(tensor("", "float32")) == ["output_0"]
    assert output_names(X) == ["x"]
    assert output_names(DictSpec({"a": inner})) == ["a/b", "a/c/output_0", "a/c/output_1"]


# --- refusals ------------------------------------------------------------------------------------

ROWS = np.ones((2, 2), "float32")
NPY_ROWS = saved(ROWS)
RAW_ROWS = {"x_tensor_dtype": "float32", "x_tensor_shape": "2,2"}


def npy_head(text: str, data: bytes = b"") -> bytes:
    """Return a .npy file with this dict."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


BAD_NPY = {
    "empty": b"",
    "no magic": b"hello, world, this is no array",
    "the magic alone": NPY_ROWS[:6],
    "a cut head": NPY_ROWS[:40],
    "a version of its own": b"\x93NUMPY\x09\x00" + NPY_ROWS[8:],
    "a byte too few": NPY_ROWS[:-1],
    "a byte too many": NPY_ROWS + b"\0",
    "no dict": npy_head("[1, 2]\n"),
    "no Python": npy_head("{'descr': (((((\n"),
    "code": npy_head("__import__('os').abort()\n"),
    "a negative size": npy_head("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n"),
    "two negative": npy_head("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2)}\n"),
    "a size of True": npy_head(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}\n", bytes(4)
    ),
    "a huge size": npy_head("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 10**9)}\n"),
    "very huge": npy_head(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}\n" % ("9" * 50)
    ),
    "objects": saved(np.array([{}], dtype=object), allow_pickle=True),
    "records": saved(np.zeros(2, dtype=[("a", "<f4"), ("b", "<f4")])),
    "text": saved(np.array(["a", "b"])),
    "dates": saved(np.array(["2020-01-01"], "datetime64[D]")),
    "a part missing": npy_head("{'descr': '<f4', 'shape': (1,)}\n", bytes(4)),
    "a part too many": npy_head(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}\n", bytes(4)
    ),
    "parts exchanged": npy_head("{'descr': False, 'fortran_order': '<f4', 'shape': (1,)}\n"),
    "a shape that is none": npy_head("{'descr': '<f4', 'fortran_order': False, 'shape': 'a'}\n"),
    "odd booleans": npy_head(
        "{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}\n", b"\x01\x02"
    ),
    "huge, times nothing": npy_head(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999, 999999999999999, 0)}"
    ),
    "as many axes as there may be": npy_head(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s0)}" % ("999999999," * 31)
    ),
}


@pytest.mark.parametrize("name", list(BAD_NPY))
def test_what_is_no_array_is_refused(name: str) -> None:
    """With what is wrong; nothing is allocated for a size that did not come."""
    with pytest.raises(InvalidInput):
        parse_npy(BAD_NPY[name])


@given(data=st.binary(max_size=200), place=st.integers(0, 140))
def test_damaged_files_are_read_or_refused(data: bytes, place: int) -> None:
    """Whatever the bytes are: an array, or an error that is the caller's."""
    for body in (NPY_ROWS[:place] + data, NPY_ROWS[:place] + data + NPY_ROWS[place + len(data) :]):
        try:
            assert isinstance(parse_npy(body), np.ndarray)
        except TFRunnerError as exc:
            assert exc.status == 400
    whole = zipped(x=ROWS)
    try:
        parse_npz(whole[:place] + data + whole[place + len(data) :], limit=1000)
    except TFRunnerError as exc:
        assert exc.status in (400, 413)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_run(client: httpx.Client, tmp_path: Path) -> None:
    """A real malicious file, alone and in a zip file."""
    mark = tmp_path / "ran"
    body = saved(np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    np.load(io.BytesIO(body), allow_pickle=True)  # it does what it says
    assert mark.exists()
    mark.unlink()
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w") as file:
        file.writestr("x.npy", body)
    for form, data in ((NPY, body), (NPZ, inside.getvalue()), (NPY, pickle.dumps(Bomb(mark)))):
        reply = post(client, data, form, x_method="float32_2")
        assert (reply.status_code, reply.json()["code"]) == (400, "invalid_input")
    assert not mark.exists()


BAD_RAW = {
    "no headers": (None, None, bytes(4), "X-Tensor-Dtype"),
    "no shape": (b"float32", None, bytes(4), "X-Tensor-Shape"),
    "an unknown dtype": (b"float33", b"1", bytes(4), "float33"),
    "text": (b"string", b"1", bytes(4), "string"),
    "objects": (b"object", b"1", bytes(8), "object"),
    "NumPy's letters": (b"<f4", b"1", bytes(4), "expected one of"),
    "a negative size": (b"float32", b"-1", bytes(4), "-1"),
    "no size": (b"float32", b"1,,1", bytes(4), "1,,1"),
    "words": (b"float32", b"two", bytes(4), "two"),
    "a long size": (b"float32", b"9" * 40, bytes(4), "sizes"),
    "many axes": (b"float32", b",".join([b"1"] * 40), bytes(4), "sizes"),
    "cut off": (b"float32", b"2,2", bytes(15), "cut off"),
    "too long": (b"float32", b"2,2", bytes(17), "too long"),
    "huge": (b"float32", b"999999999999,999999999999", bytes(4), "cut off"),
    "odd booleans": (b"bool", b"2", b"\x01\x02", "0 and 1"),
    "huge, times nothing": (b"int8", b"0,99999999999999,99999999999999", b"", "too large"),
}


@pytest.mark.parametrize("name", list(BAD_RAW))
def test_what_is_no_tensor_is_refused(name: str) -> None:
    """The message names the header, or the number of bytes."""
    dtype, shape, body, text = BAD_RAW[name]
    with pytest.raises(InvalidInput, match=text):
        parse_raw(body, dtype=dtype, shape=shape)


def test_a_single_value_has_an_empty_shape() -> None:
    """And sizes may have blanks around them."""
    assert parse_raw(bytes(4), dtype=b"float32", shape=b"").shape == ()
    assert parse_raw(bytes(8), dtype=b"Float32", shape=b" 1 , 2 ").shape == (1, 2)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }",
        '{"shape": (2,2), "fortran_order": False, "descr": "<f4"}',
        "{ 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 2 , 2 , ) }   ",
    ],
)
def test_heads_may_be_written_in_other_ways(text: str) -> None:
    """By other programs than NumPy: other order, quotes and blanks."""
    assert_equal(parse_npy(npy_head(f"{text}\n", ROWS.tobytes())), ROWS)
    wide = b"\x93NUMPY\x02\x00" + npy_head(f"{text}\n")[8:10] + b"\0\0" + text.encode() + b"\n"
    assert_equal(parse_npy(wide + ROWS.tobytes()), ROWS)


def test_what_is_no_zip_file_is_refused() -> None:
    """Cut off, damaged, encrypted, packed otherwise, two of a name, too many."""
    whole = zipped(x=ROWS)
    twice = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "w") as file:
        file.writestr("x.npy", NPY_ROWS)
        file.writestr("x.npy", NPY_ROWS)
    odd = io.BytesIO()
    with zipfile.ZipFile(odd, "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("x.npy", NPY_ROWS)
    crowd = io.BytesIO()
    with zipfile.ZipFile(crowd, "w") as file:
        for index in range(1001):
            file.writestr(f"{index}.npy", b"")
    damaged = bytearray(whole)
    damaged[150] ^= 1
    bodies = (b"", b"PK", whole[:-1], NPY_ROWS, twice, odd, crowd, bytes(damaged))
    for body in bodies:
        with pytest.raises(InvalidInput):
            parse_npz(body.getvalue() if isinstance(body, io.BytesIO) else body, limit=10**9)


def test_what_unpacks_to_too_much_is_refused(client: httpx.Client) -> None:
    """By what the file says, and where it lies about it."""
    zeros = zipped(x=np.zeros((BODY_LIMIT, 2), "float32"), compressed=True)
    assert len(zeros) < BODY_LIMIT / 10
    reply = post(client, zeros, NPZ, x_method="float32_2")
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")
    with pytest.raises(TooLarge):
        parse_npz(zeros, limit=2**20)
    size = (BODY_LIMIT * 8 + 128).to_bytes(4, "little")
    lying = zeros.replace(size, (1000).to_bytes(4, "little"))
    with pytest.raises(InvalidInput):
        parse_npz(lying, limit=2**20)


REFUSED: dict[str, tuple[bytes, Any, dict[str, str], int, str]] = {
    "an unknown form": (b"", None, {"content_type": "image/png"}, 415, "application/x-npy"),
    "several inputs": (NPY_ROWS, NPY, {"x_method": "pair"}, 415, "a, b"),
    "several inputs, raw": (ROWS.tobytes(), RAW, {"x_method": "pair", **RAW_ROWS}, 415, "x-npz"),
    "a structure": (NPY_ROWS, NPY, {"x_method": "nested"}, 415, "features"),
    "text in": (NPY_ROWS, NPY, {"x_method": "words"}, 415, "application/json"),
    "several outputs": (NPY_ROWS, NPY, {"x_method": "said"}, 406, "x-npz"),
    "several, raw": (ROWS.tobytes(), RAW, {"x_method": "said", **RAW_ROWS}, 406, "x-npz"),
    "text out": (NPY_ROWS, NPY, {"x_method": "text"}, 406, "application/json"),
    "ragged out": (zipped(x=ROWS), NPZ, {"x_method": "ragged"}, 406, "ragged"),
    "nothing acceptable": (NPY_ROWS, NPY, {"accept": "image/png"}, 406, "image/png"),
    "an unknown method": (NPY_ROWS, NPY, {"x_method": "none"}, 404, "float32_2"),
    "a wrong dtype": (NPY_ROWS, NPY, {"x_method": "int32_2"}, 400, "float32"),
    "a wrong shape": (NPY_ROWS, NPY, {"x_method": "float32_1"}, 400, "[2, 2]"),
    "a wrong name": (zipped(y=ROWS), NPZ, {"x_method": "float32_2"}, 400, "'y'"),
    "no arrays": (zipped(), NPZ, {"x_method": "float32_2"}, 400, "'x'"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_form_cannot_do_is_refused_with_advice(client: httpx.Client, name: str) -> None:
    """The status says whose form it is; the message what to send or accept instead."""
    body, form, headers, status, text = REFUSED[name]
    reply = post(client, body, form or JSON, **{"x_method": "float32_2", **headers})
    assert reply.status_code == status, reply.text
    assert text in reply.json()["error"]


def test_too_large_a_body_is_refused(client: httpx.Client) -> None:
    """Whatever its form."""
    reply = post(client, saved(np.zeros(BODY_LIMIT, "int8")), NPY, x_method="int8_1")
    assert reply.status_code == 413


# --- which form ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        *((form.content_type, form) for form in FORMS.values()),
        (b"", JSON),
        (b"Application/JSON; charset=utf-8", JSON),
        (b"application/x-www-form-urlencoded", JSON),
        (b"text/plain", JSON),
        (b"application/vnd.api+json", JSON),
        (b"APPLICATION/X-NPY", NPY),
    ],
)
def test_the_form_of_a_body(content_type: bytes, expected: Any) -> None:
    """By its Content-Type; JSON where clients usually say nothing of it."""
    assert form_of(content_type) is expected


def test_other_forms_are_unknown() -> None:
    """415 names those that are not."""
    for content_type in (b"image/png", b"multipart/form-data; boundary=x", b"json"):
        with pytest.raises(UnsupportedForm, match="application/x-npz"):
            form_of(content_type)


@pytest.mark.parametrize(
    ("accept", "own", "expected"),
    [
        (b"*/*", NPY, NPY),
        (b"application/json", NPY, JSON),
        (b"application/x-npy", JSON, NPY),
        (b"application/json, application/x-npy", NPY, NPY),
        (b"application/json;q=0.5, application/x-npy;q=0.9", JSON, NPY),
        (b"application/json;q=0.5, */*;q=0.1", NPY, JSON),
        (b"application/*", RAW, RAW),
        (b"text/html, image/gif, *; q=.2, */*; q=.2", JSON, JSON),
        (b"application/json;q=0, */*", JSON, MSGPACK),
        (b"Application/X-Msgpack; v=1", JSON, MSGPACK),
        (b", application/x-npz,", JSON, NPZ),
    ],
)
def test_the_form_of_an_answer(accept: bytes, own: Any, expected: Any) -> None:
    """What Accept weighs most; the request's own among equals."""
    assert preferred(accept, own) is expected


@pytest.mark.parametrize("accept", [b"text/html", b"*/*;q=0", b"application/json;q=x", b","])
def test_no_form_that_is_accepted(accept: bytes) -> None:
    """406 names ours."""
    with pytest.raises(NotAcceptable, match="application/x-npy"):
        preferred(accept, JSON)


def test_json_in_and_an_array_out(client: httpx.Client) -> None:
    """Accept works for JSON requests too."""
    body = json.dumps({"instances": ROWS.tolist(), "signature_name": "float32_2"}).encode()
    reply = post(client, body, JSON, accept="application/x-npy")
    assert np.array_equal(np.load(io.BytesIO(reply.content)), ROWS)


def test_an_output_that_was_not_known_is_checked_when_it_is_there(client: httpx.Client) -> None:
    """The model ran, but its text has no place in a .npy file."""
    words = np.array([b"a", b"b"], dtype=object)
    gateway = FakeGateway((OPEN,), answering=answer([words], WORDS))
    with serving(gateway) as address, httpx.Client(base_url=address, trust_env=False) as other:
        reply = post(other, NPY_ROWS, NPY, x_method="float32_2")
    assert (reply.status_code, reply.json()["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("direct", BOTH_WAYS["params"], ids=BOTH_WAYS["ids"])
@pytest.mark.parametrize("form", [NPY, RAW, NPZ], ids=lambda form: form.content_type.decode())
def test_a_runnables_array_is_answered_as_one(form: Any, direct: bool) -> None:
    """It says of no output what it is, whatever was declared; the array itself shows it."""
    made = model(
        method("declared", ("x", X), output=tensor("y", "float32", None, 2)),
        method("any", ("x", X), output=tensor("y", ANY)),
    )
    name = form.content_type.decode()
    for called in made.methods:
        gateway = FakeGateway((made,), answering=answer([ROWS], TensorSpec("y", ANY, None)))
        with (
            serving(gateway, direct=direct) as address,
            httpx.Client(base_url=address, trust_env=False) as other,
        ):
            reply = post(other, NPY_ROWS, NPY, accept=name, x_method=called)
            assert (reply.status_code, reply.headers["content-type"]) == (200, name)
            assert ROWS.tobytes() in reply.content
            gateway.answering = plain_values
            reply = post(other, NPY_ROWS, NPY, accept=name, x_method=called)
            assert (reply.status_code, reply.json()["code"]) == (406, "not_acceptable")


def plain_values(method: MethodSpec, arrays: list[Array]) -> Answer:
    """Answer with what is no array of numbers."""
    return Answer([np.array([{}], dtype=object)], TensorSpec("y", ANY, None))


def test_openapi_names_the_forms(client: httpx.Client) -> None:
    """Requests and answers; the headers of raw tensors; what each error means."""
    operation = client.get("/openapi.json").json()["paths"]["/v1/models/m:predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {name.decode() for name in FORMS}
    reply = operation["responses"]["200"]
    assert set(reply["content"]) == {name.decode() for name in FORMS}
    assert {"X-Tensor-Dtype", "X-Tensor-Shape"} <= set(reply["headers"])
    names = {each["name"] for each in operation["parameters"]}
    assert {"X-Tensor-Dtype", "X-Tensor-Shape", "X-Method", "X-Request-Timeout"} <= names
    assert {"406", "415"} <= set(operation["responses"])


def test_arrays_are_not_copied_on_the_way_to_the_gateway() -> None:
    """What is as the model wants it is a view of the body."""
    for array in (parse_npy(NPY_ROWS), parse_raw(ROWS.tobytes(), dtype=b"float32", shape=b"2,2")):
        assert not array.flags.owndata and not array.flags.writeable

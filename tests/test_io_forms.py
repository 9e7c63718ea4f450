"""The descriptor Multipart: forms read and written, and what is wrong with them."""

from __future__ import annotations

import email
import email.policy
import io
from typing import Any

import httpx
import numpy as np
import pandas
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrunner.errors import ConfigError, InvalidInput, ModelError, TooLarge, UnsupportedForm
from tfrunner.io import (
    JSON,
    Body,
    File,
    FileLike,
    Image,
    Multipart,
    NumpyNdarray,
    PandasDataFrame,
    Text,
)

JSON_TYPE = "application/json"
PNG = io.BytesIO()
PIL.Image.new("RGB", (3, 2)).save(PNG, "PNG")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def send(**fields: Any) -> Body:
    """Return the body that httpx makes of these fields: (filename, data, type) each."""
    request = httpx.Request("POST", "http://x", files=fields)
    return Body(request.read(), request.headers["content-type"])


def order() -> Multipart:
    """Return a form with fields of several kinds."""
    return Multipart(
        picture=Image(),
        rows=NumpyNdarray("float32", shape=(-1, 2)),
        note=Text(),
        file=File(max_bytes=9),
    )


GOOD = {
    "picture": ("a.png", PNG.getvalue(), "image/png"),
    "rows": (None, b"[[1, 2]]"),
    "note": (None, "é"),
    "file": ("b.bin", b"\r\n--x"),
}


def test_a_form_of_another_client_is_read() -> None:
    """A dict, in the order of the declaration, whatever the order of the parts is."""
    for fields in (GOOD, dict(reversed(GOOD.items()))):
        values = order().read(send(**fields))
        assert list(values) == list(order().fields) == ["picture", "rows", "note", "file"]
        assert values["picture"].size == (3, 2)
        assert (values["rows"].tolist(), values["rows"].dtype) == ([[1, 2]], np.float32)
        assert (values["note"], values["file"].read(), values["file"].name) == (
            "é",
            b"\r\n--x",
            "b.bin",
        )


@given(TEXT, st.binary(), st.lists(st.integers(-(2**31), 2**31)))
def test_a_form_reads_back(text: str, data: bytes, numbers: list[int]) -> None:
    """Text, bytes and arrays with their headers, line ends and boundaries of all kinds."""
    descriptor = Multipart(a=Text(), b=File(), c=NumpyNdarray(default_format="raw"), d=JSON())
    value = {"a": text, "b": data, "c": np.array(numbers, "int64"), "d": numbers}
    back = descriptor.read(descriptor.write(value))
    assert (back["a"], back["b"].read(), back["d"]) == (text, data, numbers)
    np.testing.assert_array_equal(back["c"], value["c"])


def test_a_form_is_what_others_read() -> None:
    """Python's own parser of mail finds the same parts, names and types."""
    descriptor = Multipart(text=Text(), picture=Image(mime_type="image/png"), file=File())
    file = FileLike(b"1,2", name='a "é".csv')
    body = descriptor.write({"text": "x", "picture": PIL.Image.new("L", (1, 1)), "file": file})
    head = f"Content-Type: {body.content_type}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body.data, policy=email.policy.HTTP)
    parts = {
        part.get_param("name", header="content-disposition"): part for part in message.iter_parts()
    }
    assert list(parts) == ["text", "picture", "file"]
    types = [part.get_content_type() for part in parts.values()]
    assert types == ["text/plain", "image/png", "text/csv"]
    names = [part.get_filename() for part in parts.values()]
    assert names[:2] == [None, "picture"]
    assert "%22" in names[2] and names[2].endswith(".csv")
    assert parts["file"].get_payload(decode=True) == b"1,2"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"note": None},
            InvalidInput,
            "lacks the field 'note'. Its fields are: picture, rows, note",
        ),
        ({"notes": (None, "x")}, InvalidInput, "'notes', which is not known. Did you mean 'note'"),
        ({"rows": (None, b"[[1]]")}, InvalidInput, r"field 'rows': the array has shape"),
        ({"rows": (None, b"[[1, ")}, InvalidInput, "field 'rows': JSON Parse error"),
        ({"rows": (None, b'[["x", 1]]')}, InvalidInput, "field 'rows': the array holds text"),
        (
            {"picture": ("a.txt", b"x", "text/plain")},
            UnsupportedForm,
            "field 'picture': .*'text/plain'",
        ),
        ({"picture": ("a.png", PNG.getvalue()[:40], "image/png")}, InvalidInput, "field 'picture'"),
        ({"note": (None, b"\xff")}, InvalidInput, "field 'note': the body is no text"),
        ({"file": ("b", b"x" * 10)}, TooLarge, "field 'file': the body has 10 bytes; at most 9"),
    ],
    ids=["missing", "unknown", "shape", "cut", "dtype", "type", "cut image", "text", "large"],
)
def test_a_field_that_is_wrong_is_named(fields: Any, error: type[Exception], message: str) -> None:
    """With what is wrong with it, in one line."""
    given_fields = {name: value for name, value in {**GOOD, **fields}.items() if value}
    with pytest.raises(error, match=message) as caught:
        order().read(send(**given_fields))
    assert "\n" not in str(caught.value)


def part(head: str, data: str = "x") -> bytes:
    """Return a form of one part with this head."""
    return f"--b\r\n{head}\r\n\r\n{data}\r\n--b--\r\n".encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (part('content-disposition: form-data; name="a"')[:-5], "cut off"),
        (part('content-disposition: form-data; name="a"')[:20], "cut off"),
        (b"nonsense", "broken"),
        (part("x: y"), "part 1 of the form names no field"),
        (part("content-disposition: form-data"), "names no field"),
        (part('content-disposition: attachment; name="a"'), "names no field"),
        (part("no header at all"), "broken"),
        (part("x: " + "y" * 9000), "more than 8192 bytes of headers|broken"),
        (part("content-disposition: form-data; name*=utf-8''a; name*0=b"), "names no field"),
        (part("content-disposition: form-data" + ";" * 3000), "has 3009 characters; at most 2048"),
        (b"--b--\r\n", "lacks the field 'a'"),
    ],
    ids=[
        "empty",
        "end",
        "middle",
        "nonsense",
        "head",
        "name",
        "mail",
        "line",
        "long",
        "two names",
        "semicolons",
        "none",
    ],
)
def test_a_form_that_is_broken_is_refused(data: bytes, message: str) -> None:
    """Cut off anywhere, without names, or with too much of something."""
    with pytest.raises(InvalidInput, match=message):
        Multipart(a=Text()).read(Body(data, "multipart/form-data; boundary=b"))


def test_fields_that_come_twice_or_without_end_are_refused() -> None:
    """No more parts are read than there are fields."""
    once = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n'
    form = "multipart/form-data; boundary=b"
    with pytest.raises(InvalidInput, match="has the field 'a' twice"):
        Multipart(a=Text()).read(Body(once * 2 + b"--b--\r\n", form))
    with pytest.raises(InvalidInput, match="more than 2 parts"):
        Multipart(a=Text()).read(Body(once * 1000 + b"--b--\r\n", form))


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        (JSON_TYPE, UnsupportedForm),
        ("", UnsupportedForm),
        ("application/x-www-form-urlencoded", UnsupportedForm),
        ("multipart/mixed; boundary=b", UnsupportedForm),
        ("multipart/form-data", InvalidInput),
        ("multipart/form-data; boundary=" + "b" * 300, InvalidInput),
        ("multipart/form-data; boundary=c", InvalidInput),
    ],
)
def test_types_that_are_no_form(content_type: str, error: type[Exception]) -> None:
    """Another type is 415; a form without the right boundary is 400."""
    with pytest.raises(error, match="form"):
        Multipart(a=Text()).read(
            Body(part('content-disposition: form-data; name="a"'), content_type)
        )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": "x"}, "returned a; expected a dict with: a, b"),
        ({"a": "x", "b": [1], "c": 1}, "returned a, b, c; expected"),
        ("text", "returned str; expected"),
        (None, "returned NoneType; expected"),
        ({"a": 5, "b": [1]}, "field 'a': the endpoint returned a int"),
        ({"a": "x", "b": [1.5]}, "field 'b': the endpoint's result is no such array"),
    ],
    ids=["missing", "unknown", "text", "none", "type", "dtype"],
)
def test_results_that_are_no_such_form(value: Any, message: str) -> None:
    """The endpoint's error, which names the field."""
    with pytest.raises(ModelError, match=message):
        Multipart(a=Text(), b=NumpyNdarray("int32")).write(value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "has no fields"),
        ({"a": Multipart(b=Text())}, "forms do not nest"),
        ({"a": 5}, "'a' is 5; expected a descriptor"),
        ({"a": Text}, "expected a descriptor"),
        ({"a b": Text()}, "no identifier"),
    ],
    ids=["none", "nested", "number", "class", "name"],
)
def test_declarations_that_cannot_be(fields: Any, message: str) -> None:
    """Found when the Service is declared."""
    with pytest.raises(ConfigError, match=message):
        Multipart(**fields)


def test_a_sample_gives_a_descriptor_for_each_field() -> None:
    """By the kind of its value; a descriptor stays what it is."""
    sample = {
        "text": "hello",
        "rows": np.ones((1, 2), "float32"),
        "picture": PIL.Image.new("L", (1, 1)),
        "frame": pandas.DataFrame({"a": [1]}),
        "file": b"x",
        "meta": {"k": 1},
        "own": JSON(),
    }
    descriptor = Multipart.from_sample(sample)
    kinds = [type(each) for each in descriptor.descriptors.values()]
    assert kinds == [Text, NumpyNdarray, Image, PandasDataFrame, File, JSON, JSON]
    assert descriptor.descriptors["own"] is sample["own"]
    content = descriptor.schema()["multipart/form-data"]
    assert content["schema"]["required"] == list(sample)
    assert content["schema"]["properties"]["text"] == {"type": "string", "examples": ["hello"]}
    assert content["schema"]["properties"]["picture"] == {"type": "string", "format": "binary"}
    assert content["encoding"]["meta"] == {"contentType": JSON_TYPE}
    with pytest.raises(ConfigError, match="expected values by field"):
        Multipart.from_sample([1])  # type: ignore[arg-type]

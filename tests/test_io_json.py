"""The descriptor JSON: any value, and pydantic's models."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrunner.errors import ConfigError, InvalidInput, ModelError, UnsupportedForm
from tfrunner.io import JSON, Body

NAME = "application/json"
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


class Item(pydantic.BaseModel):
    """One line of an order."""

    name: str
    price: float = pydantic.Field(gt=0)
    day: datetime.date | None = None


class Order(pydantic.BaseModel):
    """An order, which may have come out of another."""

    items: list[Item]
    after: Order | None = None


class Strict(pydantic.BaseModel):
    """Takes no other keys."""

    model_config = pydantic.ConfigDict(extra="forbid")
    count: int


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: Any
    _unwritten: float = math.nan


@dataclasses.dataclass
class Slotted:
    """A dataclass without a dict."""

    __slots__ = ("_unwritten", "x")
    x: float
    _unwritten: Any


class Bound(enum.Enum):
    """A number with a name."""

    HIGH = math.inf


class Loose(pydantic.BaseModel):
    """Takes any number."""

    x: float


DAY = pd.Timestamp("2024-02-29")
KEYS = b'{"1":2,"a":{"2024-02-29":null}}'


@given(VALUES)
def test_what_is_written_reads_back(value: Any) -> None:
    """Every value of JSON, infinities included."""
    assert JSON().read(JSON().write(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), b"0.1"),
        (np.array([[1, 2]]), b"[[1,2]]"),
        ({"a": math.nan, "b": None}, b'{"a":NaN,"b":null}'),
        (Point(1.5), b'{"x":1.5}'),
        (Item(name="pen", price=2), b'{"name":"pen","price":2.0,"day":null}'),
        (None, b"null"),
        (pd.DataFrame({"t": [DAY, pd.NaT]}), b'{"t":{"0":"2024-02-29T00:00:00","1":null}}'),
        (pd.DataFrame({"n": [1]}, index=[DAY]), b'{"n":{"2024-02-29T00:00:00":1}}'),
        (pd.Series([1, None], dtype="Int64"), b'{"0":1,"1":null}'),
        ([{"t": DAY}, pd.NA, pd.NaT], b'[{"t":"2024-02-29T00:00:00"},null,null]'),
        ([pd.Timedelta("1s"), datetime.timedelta(1)], b'["P0DT0H0M1S","PT86400.0S"]'),
        (np.array(["2024-02-29", "NaT"], "M8[ns]"), b'["2024-02-29T00:00:00",null]'),
        (np.array([1500, "NaT"], "m8[ms]"), b'["PT1.5S",null]'),
        (decimal.Decimal("1234567890.123456789"), b"1234567890.123456789"),
        ([decimal.Decimal("NaN"), decimal.Decimal("-Infinity")], b"[NaN,-Infinity]"),
        ({np.int64(1): 2, np.str_("a"): {datetime.date(2024, 2, 29): None}}, KEYS),
    ],
    ids=[
        "numpy number",
        "array",
        "nan",
        "dataclass",
        "model",
        "none",
        "times",
        "labels",
        "missing",
        "records",
        "durations",
        "times of NumPy",
        "durations of NumPy",
        "decimal",
        "not finite",
        "keys",
    ],
)
def test_other_values_are_written_too(value: Any, text: bytes) -> None:
    """Arrays, NumPy's numbers, dataclasses and models have a form."""
    assert JSON().write(value) == Body(text, NAME)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Point(math.inf), b'{"x":Infinity}'),
        (Slotted(math.nan, None), b'{"x":NaN}'),
        (Loose(x=-math.inf), b'{"x":-Infinity}'),
        (pd.DataFrame({"a": [1, math.nan]}), b'{"a":{"0":1.0,"1":NaN}}'),
        (pd.Series([math.inf]), b'{"0":Infinity}'),
        ({math.inf}, b"[Infinity]"),
        (np.array([1, math.nan, None], object), b"[1,NaN,null]"),
        (Bound.HIGH, b"Infinity"),
        ({"a": [Point(Loose(x=math.nan)), {None}]}, b'{"a":[{"x":{"x":NaN}},[null]]}'),
    ],
    ids=["dataclass", "slots", "model", "frame", "series", "set", "objects", "enum", "nested"],
)
def test_numbers_that_are_not_finite_are_tokens_wherever_they_are(value: Any, text: bytes) -> None:
    """Not null, which is None; what is beside them is written as ever."""
    assert JSON().write(value).data == text


@pytest.mark.parametrize(
    "content_type", ["", NAME, NAME + "; charset=utf-8", "application/ld+json", "text/plain"]
)
def test_types_that_are_taken_for_json(content_type: str) -> None:
    """As the predict path takes them; so is what curl's -d says."""
    assert JSON().read(Body(b"[1]", content_type)) == [1]
    assert JSON().read(Body(b"[1]", "application/x-www-form-urlencoded")) == [1]


@pytest.mark.parametrize(
    "content_type", ["image/png", "application/octet-stream", "application/jso"]
)
def test_other_types_are_refused(content_type: str) -> None:
    """The error names the type, and what to send."""
    with pytest.raises(UnsupportedForm, match=f"{content_type!r}.*Send: application/json"):
        JSON().read(Body(b"[1]", content_type))


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": 1', b"[1,]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    """Cut off, broken, not Unicode, or nested beyond reason: one line."""
    for descriptor in (JSON(), JSON(pydantic_model=Order)):
        with pytest.raises(InvalidInput, match=r"^[^\n]+$"):
            descriptor.read(Body(data, NAME))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1, object()}, "a value of type object has no form in JSON"),
        (iter([1]), "a value of type list_iterator has no form in JSON"),
        ([None, object()], "a value of type object has no form in JSON"),
        ({(1, 2): 3}, "a dict has a key of type tuple; JSON's are text"),
        ("\ud800", "not valid UTF-8"),
    ],
    ids=["set", "iterator", "beside none", "key", "no text"],
)
def test_what_json_cannot_hold_is_an_error_of_the_endpoint(value: Any, said: str) -> None:
    """Status 500, and what it was."""
    with pytest.raises(ModelError, match=f"cannot be written as JSON: .*{said}"):
        JSON().write(value)


def test_a_charset_is_honoured() -> None:
    """As in text."""
    for descriptor in (JSON(), JSON(pydantic_model=Loose)):
        body = Body('{"x": 1}'.encode("utf-16"), NAME + "; charset=utf-16")
        assert descriptor.write(descriptor.read(body)).data in (b'{"x":1}', b'{"x":1.0}')
    assert JSON().read(Body(b'"\xe9"', NAME + "; charset=iso-8859-1")) == "é"
    with pytest.raises(UnsupportedForm, match="charset 'nonsense' is not read"):
        JSON().read(Body(b"1", NAME + "; charset=nonsense"))


# --- models -------------------------------------------------------------------------------------


def test_a_body_becomes_an_instance_of_the_model() -> None:
    """Typed, as JSON has no dates."""
    descriptor = JSON(pydantic_model=Order)
    order = descriptor.read(
        Body(b'{"items": [{"name": "pen", "price": 2, "day": "2024-02-29"}]}', NAME)
    )
    assert order == Order(items=[Item(name="pen", price=2, day=datetime.date(2024, 2, 29))])
    assert descriptor.read(descriptor.write(order)) == order


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            Order,
            b'{"items": [{"name": "a", "price": "x"}]}',
            "field 'items.0.price': Input should be",
        ),
        (
            Order,
            b'{"items": [{"name": "a", "price": -1}]}',
            "field 'items.0.price': .*greater than 0",
        ),
        (Order, b"{}", "field 'items': Field required"),
        (Order, b"[]", "Input should be an object"),
        (Order, b'{"items": [{}, {}]}', r"field 'items.0.name': Field required \(3 more\)"),
        (Strict, b'{"count": 1, "coutn": 2}', "field 'coutn': Extra inputs are not permitted"),
        (Strict, b'{"count": 1.5}', "field 'count': "),
    ],
    ids=["wrong", "limit", "missing", "no object", "several", "unknown", "fraction"],
)
def test_what_the_model_refuses_names_the_field(model: Any, data: bytes, message: str) -> None:
    """Status 400, in one line."""
    with pytest.raises(InvalidInput, match=message) as caught:
        JSON(pydantic_model=model).read(Body(data, NAME))
    assert "\n" not in caught.value.message


def test_a_result_must_fit_its_model() -> None:
    """A dict that the model takes is written by it; any other is the endpoint's error."""
    descriptor = JSON(pydantic_model=Strict)
    assert descriptor.write({"count": "7"}).data == b'{"count":7}'
    for wrong in ({"count": "x"}, {"other": 1}, 5, None):
        with pytest.raises(ModelError, match="the endpoint's result: "):
            descriptor.write(wrong)


def test_only_models_are_taken_for_models() -> None:
    """Found when the Service is declared."""
    for wrong in (dict, Point, "Order"):
        with pytest.raises(ConfigError, match=r"expected a subclass of pydantic\.BaseModel"):
            JSON(pydantic_model=wrong)


# --- described ----------------------------------------------------------------------------------


def test_a_sample_gives_schema_and_example() -> None:
    """It restricts nothing."""
    descriptor = JSON.from_sample(
        {"a": [1, 2.5], "b": {"c": "x", "d": None}, "e": [], "f": [1, "x"]}
    )
    properties = {
        "a": {"type": "array", "items": {"type": "number"}},
        "b": {"type": "object", "properties": {"c": {"type": "string"}, "d": {}}},
        "e": {"type": "array", "items": {}},
        "f": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
    }
    content = descriptor.schema()[NAME]
    assert content["schema"] == {"type": "object", "properties": properties}
    assert content["example"]["a"] == [1, 2.5]
    assert descriptor.read(Body(b"5", NAME)) == 5


def test_samples_that_are_long_or_not_finite() -> None:
    """The page shows no thousand numbers, and OpenAPI is plain JSON."""
    long = JSON.from_sample(np.zeros(5000))
    assert long.schema() == {NAME: {"schema": {"type": "array", "items": {"type": "number"}}}}
    assert JSON.from_sample([math.nan, 1.5]).schema()[NAME]["example"] == [None, 1.5]
    with pytest.raises(ConfigError, match="cannot be used"):
        JSON.from_sample(object())


def test_a_sample_that_is_a_model_brings_its_class_along() -> None:
    """And one that the model refuses is found when it is declared."""
    descriptor = JSON.from_sample(Strict(count=3))
    assert descriptor.pydantic_model is Strict
    assert descriptor.schema()[NAME]["example"] == {"count": 3}
    with pytest.raises(ConfigError, match="field 'count'"):
        JSON.from_sample({"count": "x"}, pydantic_model=Strict)


def test_a_models_schema_has_no_references() -> None:
    """They would be looked up from the root of the OpenAPI document; one inside itself ends."""
    schema = JSON(pydantic_model=Order).schema()[NAME]["schema"]
    assert "$ref" not in str(schema) and "$defs" not in str(schema)
    item = schema["properties"]["items"]["items"]
    assert item["properties"]["price"] == {
        "exclusiveMinimum": 0,
        "title": "Price",
        "type": "number",
    }
    assert item["required"] == ["name", "price"]

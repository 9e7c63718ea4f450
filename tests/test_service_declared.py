"""Services: what can be declared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tfrunner import Context, Service
from tfrunner.errors import ConfigError, InvalidInput, ModelError
from tfrunner.io import JSON, Body, Multipart, NumpyNdarray


def one(value: Any) -> Any:
    """Take one argument."""
    return value


def none() -> None:
    """Take none."""


def two(first: Any, second: Any) -> None:
    """Take two."""


@pytest.mark.parametrize(
    ("function", "options"),
    [
        *((one, {"name": name}) for name in ("docs", "metrics", "livez", "v1", "not-a-name", "")),
        *(
            (one, {"route": r})
            for r in ("", "/", "//a", "a?b", "a#b", "a:b", "{a}", "/v1/x", "docs")
        ),
    ],
    ids=str,
)
def test_what_cannot_be_an_endpoint(function: Callable[..., Any], options: Any) -> None:
    """Names and routes of the server's, no identifiers, other than one argument."""
    with pytest.raises(ConfigError):
        Service("s").api(JSON(), JSON(), **options)(function)


def with_context(value: Any, ctx: Any) -> Any:
    """Take a value and the context."""
    return value


def with_annotation(value: Any, *, which: Context) -> Any:
    """Take a value and the context, by its type."""
    return value


def with_default(value: Any, factor: int = 2) -> Any:
    """Take a value, and what nobody gives."""
    return value


def only_context(ctx: Any) -> Any:
    """Take no value."""


def two_contexts(value: Any, ctx: Any, context: Any) -> Any:
    """Take two contexts."""


def by_position(value: Any, ctx: Any, /) -> Any:
    """Take a context that cannot be given by name."""


def left_right(left: Any, right: Any) -> Any:
    """Take two fields."""


def right_left(context: Any, right: Any, left: Any) -> Any:
    """Take two fields in another order, and the context."""


def left_rihgt(left: Any, rihgt: Any) -> Any:
    """Take fields of which one is not there."""


def only_left(left: Any) -> Any:
    """Take one of two fields."""


def one_more(left: Any, right: Any, middle: int = 0) -> Any:
    """Take a parameter that no field fills."""


def any_fields(ctx: Any, **fields: Any) -> Any:
    """Take whatever there is."""


class Unknown:
    """Can be called, nobody knows how."""

    __signature__ = 5

    def __call__(self) -> None:
        """Take nothing."""


FIELDS = Multipart(left=JSON(), right=JSON())


@pytest.mark.parametrize(
    ("function", "input", "context"),
    [
        (one, JSON(), ""),
        (with_default, JSON(), ""),
        (with_context, JSON(), "ctx"),
        (with_annotation, JSON(), "which"),
        (left_right, FIELDS, ""),
        (right_left, FIELDS, "context"),
        (any_fields, FIELDS, "ctx"),
    ],
)
def test_functions_that_can_be_endpoints(
    function: Callable[..., Any], input: Any, context: str
) -> None:
    """They take what their descriptor reads, and the context under its name or by its type."""
    svc = Service("s")
    svc.api(input, JSON(), name="endpoint")(function)
    assert svc.apis["endpoint"].context == context


@pytest.mark.parametrize(
    ("function", "input", "expected"),
    [
        (none, JSON(), "takes 0 arguments"),
        (two, JSON(), "takes 2 arguments"),
        (only_context, JSON(), "takes 0 arguments"),
        (two_contexts, JSON(), "one Context, by name"),
        (by_position, JSON(), "one Context, by name"),
        (left_rihgt, FIELDS, "no parameter for the field 'right' .*Did you mean 'rihgt'"),
        (only_left, FIELDS, "no parameter for the field 'right'"),
        (one_more, FIELDS, "no field for its parameter 'middle'"),
        (Unknown(), JSON(), "Unknown cannot be an endpoint"),
    ],
)
def test_functions_that_cannot_be_endpoints(
    function: Callable[..., Any], input: Any, expected: str
) -> None:
    """Said when they are declared, with what was meant."""
    with pytest.raises(ConfigError, match=expected):
        Service("s").api(input, JSON(), name="endpoint")(function)


def test_objects_that_can_be_called_are_endpoints_too() -> None:
    """Where they run is seen at their `__call__`."""

    class Model:
        """Counts nothing."""

        async def __call__(self, value: Any) -> Any:
            """Return the value."""
            return value

    svc = Service("s")
    svc.api(JSON(), JSON(), name="model")(Model())
    svc.api(JSON(), JSON(), name="part")(functools.partial(two, 1))
    assert [each.is_async for each in svc.apis.values()] == [True, False]


def test_names_and_routes_are_unique() -> None:
    """Within a Service; two runners of one name are refused too."""
    svc = Service("s")
    assert svc.api(JSON(), JSON())(one) is one
    with pytest.raises(ConfigError, match="two endpoints called 'one'"):
        svc.api(JSON(), JSON())(one)
    with pytest.raises(ConfigError, match="route '/one'"):
        svc.api(JSON(), JSON(), name="other", route="one")(one)
    assert repr(svc) == "<Service s [one]>"

    with pytest.raises(ConfigError, match="two runners called 'twin'"):
        Service("s", runners=[Named(), Named()])  # type: ignore[list-item]


class Named:
    """Has what a runner must have."""

    name = "twin"


class Convertible(Named):
    """Has what a model has too."""

    def to_runner(self) -> None:
        """Make no runner."""


@pytest.mark.parametrize(
    ("runners", "expected"),
    [
        (Named(), "expected a list, `runners=.runner.`"),
        ([Named(), Convertible()], "is a model; use `.to_runner\\(\\)`"),
        ("digits", "'d' is no runner"),
        ([5], "5 is no runner"),
    ],
    ids=["one", "model", "text", "number"],
)
def test_what_is_no_runner(runners: Any, expected: str) -> None:
    """Said when the Service is declared."""
    with pytest.raises(ConfigError, match=expected):
        Service("s", runners=runners)


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [
        ((one,), "input is <function one"),
        ((), "input is missing"),
        ((JSON(),), r"output is missing; .*@svc.api\(input=JSON\(\), output=JSON\(\)\)"),
        ((JSON(), JSON), "output is <class"),
        ((dict, JSON()), "input is <class 'dict'>"),
    ],
    ids=["no brackets", "empty brackets", "no output", "class", "annotation"],
)
def test_endpoints_have_two_descriptors(descriptors: Any, expected: str) -> None:
    """Forgotten brackets are said when the endpoint is declared, not when it is called."""
    with pytest.raises(ConfigError, match=expected):
        Service("s").api(*descriptors)


def test_descriptors_refuse_what_they_cannot_read_or_write() -> None:
    """As errors of ours."""
    with pytest.raises(InvalidInput):
        JSON().read(Body(b"", ""))
    with pytest.raises(ModelError):
        JSON().write({1, object()})
    with pytest.raises(InvalidInput):
        NumpyNdarray().read(Body(b"[1, [2]]", ""))
    with pytest.raises(InvalidInput):
        NumpyNdarray().read(Body(b"[null]", ""))
    assert NumpyNdarray().read(Body(b"[1, 2]", "")).dtype == np.int64

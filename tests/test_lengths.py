"""Padding and cutting as `signatures` declares them: what is stored, refused, and warned of."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import numpy as np
import pytest

from tfrunner.errors import InvalidInput
from tfrunner.lengths import apply_lengths
from tfrunner.saving import apply_options, check_signatures
from tfrunner.specs import Argument, Cut, DictSpec, MethodSpec, Padding, TensorSpec, Variant

METHOD = MethodSpec(
    "__call__",
    (
        Argument("ids", TensorSpec("ids", "int32", (None, None))),
        Argument("mask", TensorSpec("mask", "bool", (None, None))),
        Argument("words", TensorSpec("words", "string", (None, None))),
        Argument("wide", TensorSpec("wide", "float32", (None, 4, None))),
        Argument("any", TensorSpec("any", "float32", None)),
        Argument("rows", TensorSpec("rows", "float32", (None, None), ragged_rank=1)),
        Argument("pair", DictSpec({"x": TensorSpec("x", "uint8", (None, None))})),
    ),
    DictSpec(
        {"y": TensorSpec("y", "float32", (None, None)), "n": TensorSpec("n", "int32", (None,))}
    ),
)


def declared(**options: Any) -> MethodSpec:
    """Return the method with options, as `save` makes it."""
    given = {"batchable": True, **options}
    ((_, checked),) = (check_signatures({"__call__": given}) or {}).items()
    return apply_options(METHOD, checked)


def test_padding_and_cuts_are_stored_with_the_method() -> None:
    """What is not said is zero, False, or empty text; buckets are powers of two then."""
    method = declared(
        padding={
            "ids": {"axis": 1, "value": 7, "buckets": [16, 32]},
            "mask": {"axis": 1},
            "words": {"axis": 1},
            "wide": {"axis": 2, "value": -1.5},
            "any": {"axis": 3, "value": np.float32(2)},
            "x": {"axis": 1, "value": 255},
        },
        cut={"y": {"axis": 1, "like": "ids"}},
    )
    assert method.padding == (
        Padding("ids", 1, 7, (16, 32)),
        Padding("mask", 1, False),
        Padding("words", 1, ""),
        Padding("wide", 2, -1.5),
        Padding("any", 3, 2.0),
        Padding("x", 1, 255),
    )
    assert method.cuts == (Cut("y", 1, "ids"),)
    assert declared() == apply_lengths(declared(), {}, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": {"ids": {"axes": 1}}}, "unknown key 'axes'. Did you mean 'axis'"),
        ({"padding": {"ids": 1}}, r"padding of '__call__' is .*; expected \{\"padding\""),
        ({"padding": 16}, "padding of '__call__' is 16"),
        ({"padding": {"ids": {}}}, "'axis' is None"),
        ({"padding": {"ids": {"axis": -1}}}, "axes counted from 0"),
        ({"padding": {"ids": {"axis": True}}}, "'axis' is True"),
        ({"padding": {"id": {"axis": 1}}}, "no such input. Did you mean 'ids'"),
        ({"padding": {"ids": {"axis": 0}}}, "axis 0 is the batch axis"),
        ({"padding": {"ids": {"axis": 2}}}, r"no axis 2 in shape \[\?, \?\]"),
        ({"padding": {"wide": {"axis": 1}}}, r"axis 1 of shape \[\?, 4, \?\] is fixed"),
        ({"padding": {"rows": {"axis": 1}}}, "it is ragged, and needs no padding"),
        ({"padding": {"ids": {"axis": 1, "value": 0.5}}}, "a whole number that int32 holds"),
        ({"padding": {"x": {"axis": 1, "value": 256}}}, "a whole number that uint8 holds"),
        ({"padding": {"ids": {"axis": 1, "value": "0"}}}, "'value' is '0'; expected int32"),
        ({"padding": {"ids": {"axis": 1, "value": False}}}, "'value' is False; expected int32"),
        ({"padding": {"mask": {"axis": 1, "value": 0}}}, "'value' is 0; expected bool"),
        ({"padding": {"words": {"axis": 1, "value": 0}}}, "'value' is 0; expected text"),
        ({"padding": {"ids": {"axis": 1, "buckets": []}}}, "'buckets' is \\[\\]"),
        ({"padding": {"ids": {"axis": 1, "buckets": [32, 16]}}}, "in ascending order"),
        ({"padding": {"ids": {"axis": 1, "buckets": [16, 16]}}}, "in ascending order"),
        ({"padding": {"ids": {"axis": 1, "buckets": [0, 8]}}}, "in ascending order"),
        ({"padding": {"ids": {"axis": 1, "buckets": 16}}}, "'buckets' is 16"),
        ({"cut": {"y": {"axis": 1, "like": "ids"}}}, "'ids', which is no padded input"),
        ({"cut": {"y": {"axis": 1}}}, "'like' is None; expected the name"),
        ({"cut": {"y": {"axis": 1, "as": "ids"}}}, "unknown key 'as'"),
        ({"padding": {"ids": {"axis": 1}}, "batchable": False}, "is not batchable"),
        ({"paddding": {}}, "Did you mean 'padding'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    """The message says what was expected."""
    with pytest.raises(InvalidInput, match=message):
        declared(**options)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"z": {"axis": 1, "like": "ids"}}, "no such output. There are: n, y|Did you mean"),
        ({"n": {"axis": 0, "like": "ids"}}, "axis 0 is the batch axis"),
        ({"n": {"axis": 1, "like": "ids"}}, "no axis 1"),
        ({"y": {"axis": 1, "like": "idss"}}, "Did you mean 'ids'"),
    ],
    ids=str,
)
def test_cuts_that_cannot_be_are_refused(cut: dict[str, Any], message: str) -> None:
    """Against the method's outputs and its padded inputs."""
    with pytest.raises(InvalidInput, match=message):
        declared(padding={"ids": {"axis": 1}}, cut=cut)


def test_padding_needs_one_signature_and_clear_names() -> None:
    """A polymorphic function has several; two inputs of a name cannot be told apart."""
    import msgspec

    options = (check_signatures({"m": {"batchable": True, "padding": {"ids": {"axis": 1}}}}) or {})[
        "m"
    ]
    several = msgspec.structs.replace(METHOD, variants=(Variant(METHOD.arguments[1:]),))
    with pytest.raises(InvalidInput, match="has several signatures"):
        apply_options(several, options)
    twice = msgspec.structs.replace(METHOD, arguments=(*METHOD.arguments, METHOD.arguments[0]))
    with pytest.raises(InvalidInput, match="2 inputs have that name"):
        apply_options(twice, options)


PADDED = {"padding": {"ids": {"axis": 1}}, "batchable": True}


@pytest.mark.tensorflow
def test_padding_that_changes_outputs_is_warned_of(
    home: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an output that is not cut back too; not of one that is, or does not depend on it."""
    made = importlib.import_module("tests.models")
    tensorflow = importlib.import_module("tfrunner.tensorflow")

    def warnings(signatures: Any, **options: Any) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="tfrunner"):
            tensorflow.save(made.TokenModel(), "m", signatures=signatures, **options)
        return caplog.text

    right = {**PADDED, "cut": {"doubled": {"axis": 1, "like": "ids"}}}
    assert warnings({"__call__": right}) == ""
    assert warnings({"__call__": right}, example=[[4, 5, 6], [7, 8, 9]]) == ""
    assert "changes the shape of output 'doubled'" in warnings({"__call__": PADDED})
    for options in ({}, {"example": [[3, 4]]}):
        text = warnings({"mean": PADDED}, **options)
        assert "padding changes output 'output_0' of mean" in text
    wrong = {"axis": 1, "value": 1}
    text = warnings({"__call__": {**right, "padding": {"ids": wrong}}})
    assert "padding changes output 'count'" in text


@pytest.mark.tensorflow
def test_padded_calls_give_what_unpadded_ones_give(home: Any) -> None:
    """Of every length, up to the largest bucket."""
    made = importlib.import_module("tests.models")
    tensorflow = importlib.import_module("tfrunner.tensorflow")
    padding = {"ids": {"axis": 1, "buckets": [4, 8]}}
    options = {**PADDED, "padding": padding, "cut": {"doubled": {"axis": 1, "like": "ids"}}}
    model = tensorflow.save(made.TokenModel(), "m", signatures={"__call__": options})
    with model.to_runner() as runner:
        runner.init_local(quiet=True)
        for length in (0, 1, 4, 5, 8):
            rows = np.arange(2 * length, dtype="int32").reshape(2, length) + 1
            answer = runner.run(rows)
            assert answer["doubled"].tolist() == (rows * 2).tolist()
            assert answer["count"].tolist() == [length, length]
        with pytest.raises(InvalidInput, match="length 9 on axis 1; expected at most 8"):
            runner.run(np.zeros((2, 9), "int32"))

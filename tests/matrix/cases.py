"""What each model of the matrix is called with, and what it must give. No TensorFlow here."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pandas

from tfrunner.ragged import rows_array

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ROW = [[1, 2, 3, 4, 5]]
NAN, INF = float("nan"), float("inf")


class Case(NamedTuple):
    """One call.

    Args:
        id: What the test is called.
        model: Name of the model.
        method: Name of the method.
        args: By position.
        kwargs: By name.
        gives: What must come back: arrays and their structure. Dtypes count.
        json: Whether HTTP's JSON has a form for it, both ways.
    """

    id: str
    model: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gives: Any
    json: bool = True


def case(
    id: str, model: str, *args: Any, gives: Any, method: str = "__call__", **kwargs: Any
) -> Case:
    """Return a case; `json=False` among the keywords says that JSON cannot carry it."""
    json = kwargs.pop("json", True)
    return Case(f"{model}-{id}", model, method, args, kwargs, gives, json)


def kinds(value: Any) -> dict[str, Any]:
    """Return one value as callers write it."""
    return {
        "list": value,
        "float64": np.asarray(value, np.float64),
        "float32": np.asarray(value, np.float32),
        "int64": np.asarray(value, np.int64),
        "fortran order": np.asfortranarray(np.asarray(value, np.float64)),
        "data frame": pandas.DataFrame(np.asarray(value)),
    }


F64, F32 = np.float64, np.float32
SUM, THREE = np.array([[15.0]]), np.arange(15).reshape(3, 5)

SEED = [
    *(case(f"{kind}", "native", x, gives=SUM) for kind, x in kinds(ROW).items()),
    case("keyword", "native", inputs=ROW, gives=SUM),
    case("three rows", "native", ROW * 3, gives=np.array([[15.0]] * 3)),
    case("zero rows", "native", np.zeros((0, 5)), gives=np.zeros((0, 1)), json=False),
    case(
        "ragged",
        "native",
        [[15], [7, 8], [1, 2, 3, 4, 5]],
        method="predict_ragged",
        gives=np.array([[15.0]] * 3),
    ),
    case("multi input", "inputs", ROW, ROW, 3.0, gives=np.array([[60.0]])),
    case("names", "inputs", x2=ROW, x1=ROW, factor=np.float32(3), gives=np.array([[60.0]])),
    case("mixed", "inputs", ROW, factor=3, x2=np.asarray(ROW), gives=np.array([[60.0]])),
    case(
        "int64 is cast",
        "outputs",
        np.asarray(ROW),
        gives=(np.array(ROW, F32) * 2, np.array(ROW, F32)),
    ),
    *(
        case(f"one row, {kind}", "polymorphic", x, gives=np.array(ROW, F32))
        for kind, x in kinds(ROW).items()
    ),
    *(
        case(
            f"three rows, {kind}",
            "polymorphic",
            x,
            gives=(THREE.astype(F32) * 2, THREE.astype(F32)),
        )
        for kind, x in kinds(THREE.tolist()).items()
    ),
    case("text", "polymorphic", ["ab", "c"], gives=np.array([b"AB", b"C"], object)),
    case("two integers", "polymorphic", 3, 4, gives=np.int32(7)),
    *(
        case(f"{kind}", "functional", x, gives=np.full((1, 6), 15.0))
        for kind, x in kinds(ROW).items()
    ),
    *(case(f"{kind}", "sequential", x, gives=SUM) for kind, x in kinds(ROW).items()),
]


def doubled() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return one value of every numeric dtype, and twice it."""
    given, gives = {}, {}
    for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"):
        limit = np.iinfo(name).max // 2
        given[name] = np.array([[0, 1], [2, limit]], name)
        gives[name] = given[name] + given[name]
    for name in ("float16", "bfloat16", "float32", "float64"):
        dtype = BFLOAT16 if name == "bfloat16" else np.dtype(name)
        given[name] = np.array([[0.5, -0.0], [1.25, 1024.0]]).astype(dtype)
        gives[name] = given[name] + given[name]
    return given, gives


GIVEN, DOUBLED = doubled()
TEXT = np.array([["Ab", "ÄÖ"], ["", "x\0y"]], object)
PAGES = [[[1, 2], []], [], [[3]]]

VALUES = [
    case("every dtype", "values", GIVEN, method="double", gives=DOUBLED),
    case(
        "every dtype from lists",
        "values",
        {
            name: array.astype(np.float64).tolist() if name[0] in "fb" else array.tolist()
            for name, array in GIVEN.items()
        },
        method="double",
        gives=DOUBLED,
    ),
    case("bool", "values", [True, False], method="negate", gives=np.array([False, True])),
    case(
        "broadcast parameters",
        "values",
        [[1, 2], [3, 4]],
        2.0,
        "kg",
        method="scale",
        gives=(np.array([[2, 4], [6, 8]], F32), np.array([b"kg", b"kg"], object)),
    ),
    case(
        "parameters of rank 0",
        "values",
        [[1, 2]],
        method="scale",
        factor=np.array(0.5),
        unit=b"\xff",
        gives=(np.array([[0.5, 1]], F32), np.array([b"\xff"], object)),
        json=False,
    ),
    case(
        "strings",
        "values",
        TEXT,
        method="lower",
        gives={
            "lower": np.array([[b"ab", "ÄÖ".encode()], [b"", b"x\0y"]], object),
            "length": np.array([[2, 4], [0, 3]], np.int32),
        },
    ),
    case(
        "bytes that are no text",
        "values",
        [[b"\xff\xfe", b"A"]],
        method="lower",
        gives={
            "lower": np.array([[b"\xff\xfe", b"a"]], object),
            "length": np.array([[2, 1]], np.int32),
        },
        json=False,
    ),
    case(
        "nested",
        "values",
        {"pair": ([1, 2], [3, 4]), "rest": [[[1.5], [2.5]]]},
        method="nested",
        gives={
            "sum": np.array([4, 6], np.int32),
            "deep": [(np.array([[3], [5]], F32), {"left": np.array([1, 2], np.int32)})],
        },
    ),
    case(
        "ragged",
        "values",
        [["a"], ["b", "cd"], []],
        PAGES,
        method="ragged",
        gives={
            "upper": rows_array(
                [np.array([b"A"], object), np.array([b"B", b"CD"], object), np.array([], object)]
            ),
            "sums": rows_array([np.array([3, 0]), np.array([], np.int64), np.array([3])]),
        },
    ),
    case("scalar", "values", [1, 2, 3.5], method="total", gives=F32(6.5)),
    case("none", "values", [1.0], method="nothing", gives=None),
    case(
        "not finite",
        "values",
        [0.0, NAN, INF, -INF, 4.0],
        method="inverse",
        gives=np.array([INF, NAN, 0.0, -0.0, 0.25]),
    ),
    case(
        "rows on axis 1",
        "values",
        [[1, 2, 3], [4, 5, 6]],
        method="columns",
        gives=np.array([5, 7, 9], F32),
    ),
    case(
        "padded",
        "values",
        [[1, 2, 3], [4]],
        method="states",
        gives={
            "states": np.array([[[1, 2], [2, 4], [3, 6]], [[4, 8], [-1, -2], [-1, -2]]], F32),
            "count": np.array([3, 1], F32),
        },
    ),
    case(
        "zero rows of several inputs",
        "values",
        {"pair": ([], []), "rest": [np.zeros((0, 1))]},
        method="nested",
        gives={
            "sum": np.zeros(0, np.int32),
            "deep": [(np.zeros((0, 1), F32), {"left": np.zeros(0, np.int32)})],
        },
        json=False,
    ),
    *(
        case(f"{kind}", "subclassed", x, method="predict", gives=np.full((1, 3), 10, F32))
        for kind, x in kinds([[1, 2, 3, 4]]).items()
    ),
    case(
        "keras casts",
        "narrow",
        np.array([1.9, 2.2]),
        method="predict",
        gives=np.array([[2], [4]], np.int32),
    ),
    case(
        "dict",
        "ranker",
        {"word": ["red", "blue"], "numbers": [[1, 2], [3, 4]]},
        gives={"mixed": np.array([[2, 3], [4, 5]], F32), "index": np.array([1, 0])},
    ),
    case(
        "data frame of named columns",
        "frame",
        pandas.DataFrame({"age": [1, 2], "name": ["a", "b"]}),
        gives=np.array([b"a1", b"b2"], object),
    ),
    case(
        "an imported SavedModel",
        "old",
        method="serving_default",
        x=[[1.0, 2.0, 3.0]],
        gives={"y": np.array([[14.5]], F32)},
    ),
]

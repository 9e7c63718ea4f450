"""The descriptor PandasDataFrame: JSON, CSV and Parquet; columns, dtypes and shapes."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pandas
import pandas.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrunner.errors import ConfigError, InvalidInput, ModelError, TooLarge, UnsupportedForm
from tfrunner.io import Body, PandasDataFrame

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
FLOATS = st.floats(allow_nan=False)
ROWS = st.lists(
    st.tuples(st.integers(-(2**63), 2**63 - 1), FLOATS, TEXT, st.booleans()), min_size=1
)


def frame_of(rows: Any) -> pandas.DataFrame:
    """Return a frame with a column of each kind."""
    return pandas.DataFrame(rows, columns=["whole", "real", "text", "flag"])


@given(ROWS, st.sampled_from(["records", "columns", "index", "split"]))
def test_a_frame_reads_back_from_json(rows: Any, orient: str) -> None:
    """Numbers exactly, text as text whatever it looks like."""
    descriptor, frame = PandasDataFrame(orient), frame_of(rows)
    pandas.testing.assert_frame_equal(descriptor.read(descriptor.write(frame)), frame)


@given(ROWS)
def test_a_frame_reads_back_from_parquet(rows: Any) -> None:
    """Dtypes, index and missing values included."""
    frame = frame_of(rows).set_index(pandas.Index(range(5, 5 + len(rows))))
    frame["missing"] = pandas.Series([None] * len(rows), index=frame.index, dtype="Int64")
    back = PandasDataFrame().read(PandasDataFrame(default_format="parquet").write(frame))
    pandas.testing.assert_frame_equal(back, frame)


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), FLOATS), min_size=1))
def test_numbers_read_back_from_csv(rows: Any) -> None:
    """To the last bit, infinities too."""
    descriptor = PandasDataFrame(dtype={"real": "float64"}, default_format="csv")
    frame = pandas.DataFrame(rows, columns=["whole", "real"])
    pandas.testing.assert_frame_equal(
        descriptor.read(descriptor.write(frame)), frame, check_exact=True
    )


FRAME = pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": [math.inf, math.nan]})


@pytest.mark.parametrize(
    ("orient", "text"),
    [
        ("records", '[{"a":1,"b":"x","c":Infinity},{"a":2,"b":null,"c":null}]'),
        ("columns", '{"a":{"0":1,"1":2},"b":{"0":"x","1":null},"c":{"0":Infinity,"1":null}}'),
        ("index", '{"0":{"a":1,"b":"x","c":Infinity},"1":{"a":2,"b":null,"c":null}}'),
        (
            "split",
            '{"columns":["a","b","c"],"index":[0,1],"data":[[1,"x",Infinity],[2,null,null]]}',
        ),
        ("values", '[[1,"x",Infinity],[2,null,null]]'),
    ],
)
def test_orients_are_those_of_pandas(orient: str, text: str) -> None:
    """What is missing is null; what pandas itself writes is read."""
    descriptor = PandasDataFrame(orient)
    assert descriptor.write(FRAME) == Body(text.encode(), JSON)
    theirs = FRAME[["a"]].to_json(orient=orient)
    assert descriptor.read(Body(theirs.encode(), JSON)).to_numpy().tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (["0", "1", "10"], [0, 1, 10]),
        (["-1", "7"], [-1, 7]),
        (["1", "01"], ["1", "01"]),
        (["00123", "7"], ["00123", "7"]),
        (["1", "x"], ["1", "x"]),
        (["9" * 5000], ["9" * 5000]),
        (["٣"], ["٣"]),
    ],
    ids=["numbers", "negative", "same number", "zeros", "text", "long", "arabic"],
)
def test_labels_of_rows_are_numbers_where_all_are(labels: list[str], read: list[Any]) -> None:
    """No two rows become one, whatever the orient; a column's labels alone do not decide."""
    by_row = json.dumps({label: {"a": place} for place, label in enumerate(labels)}).encode()
    frame = PandasDataFrame("index").read(Body(by_row, JSON))
    assert (frame.index.tolist(), frame["a"].tolist()) == (read, list(range(len(labels))))
    first = {label: 0 for label in labels[:1]}
    by_column = json.dumps({"a": first, "b": dict.fromkeys(labels, 1)}).encode()
    frame = PandasDataFrame("columns").read(Body(by_column, JSON))
    assert sorted(frame.index.tolist()) == sorted(read)


def test_times_are_written_as_iso_8601() -> None:
    """And read as text, unless the dtype says what they are."""
    frame = pandas.DataFrame({"t": pandas.to_datetime(["2024-02-29", None])})
    body = PandasDataFrame().write(frame)
    assert body.data == b'[{"t":"2024-02-29T00:00:00"},{"t":null}]'
    back = PandasDataFrame(dtype={"t": "datetime64[ns]"}).read(body)
    assert back["t"].tolist() == [pandas.Timestamp("2024-02-29"), pandas.NaT]


def test_the_content_type_says_the_form() -> None:
    """The default format's where there is none; columns of text stay text in CSV."""
    descriptor = PandasDataFrame(default_format="csv", dtype={"zip": "str"})
    for content_type in (CSV, CSV + "; charset=utf-8", ""):
        assert descriptor.read(Body(b"zip,n\n00123,1\n", content_type))["zip"].tolist() == ["00123"]
    for content_type in (PARQUET, "application/octet-stream", "application/parquet"):
        data = io.BytesIO()
        FRAME.to_parquet(data)
        assert PandasDataFrame().read(Body(data.getvalue(), content_type)).shape == (2, 3)
    with pytest.raises(
        UnsupportedForm, match=r"'application/xml'.*Send: text/csv, application/vnd"
    ):
        descriptor.read(Body(b"<a/>", "application/xml"))


@pytest.mark.parametrize(
    ("orient", "data"),
    [
        ("records", b'{"a": 1}'),
        ("records", b"[1, 2]"),
        ("records", b"[[1]]"),
        ("columns", b"[]"),
        ("columns", b'{"a": 1}'),
        ("columns", b'{"a": [1], "b": [1, 2]}'),
        ("index", b'{"0": [1]}'),
        ("split", b'{"data": [[1]]}'),
        ("split", b'{"data": [[1]], "columns": ["a", "b"]}'),
        ("split", b'{"data": [[1]], "columns": ["a"], "index": [1, 2]}'),
        ("split", b'{"data": [[1]], "columns": [{"a": 1}]}'),
        ("values", b"[[1], [1, 2]]"),
        ("values", b"5"),
    ],
)
def test_json_of_another_orient_is_refused(orient: str, data: bytes) -> None:
    """The message names the orient."""
    with pytest.raises(InvalidInput, match=f"no data frame with orient '{orient}'"):
        PandasDataFrame(orient).read(Body(data, JSON))


def parquet() -> bytes:
    """Return a Parquet file."""
    return PandasDataFrame(default_format="parquet").write(FRAME).data


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"[", JSON),
        (b"", CSV),
        (b'a,b\n"1,2', CSV),
        (b"a,b\n1,2,3\n", CSV),
        (b"a,b\n1,2\n1,2,3\n", CSV),
        (b"\xff\xfe,1\n", CSV),
        (b"", PARQUET),
        (parquet()[:-9], PARQUET),
        (parquet()[:50] + parquet()[-50:], PARQUET),
        (b"PAR1" + b"\xff" * 99 + b"PAR1", PARQUET),
    ],
    ids=["json", "empty", "quote", "wide", "wider", "bytes", "no parquet", "end", "middle", "head"],
)
def test_bodies_that_are_broken_are_refused(data: bytes, content_type: str) -> None:
    """In one line."""
    with pytest.raises(InvalidInput, match=r"^[^\n]+$"):
        PandasDataFrame().read(Body(data, content_type))


@given(st.data())
def test_a_broken_parquet_file_is_a_frame_or_refused(data: st.DataObject) -> None:
    """Whatever byte is wrong, no other error comes up."""
    whole = bytearray(parquet())
    for _ in range(3):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(PandasDataFrame().read(Body(bytes(whole), PARQUET)), pandas.DataFrame)
    except (InvalidInput, TooLarge) as exc:
        assert exc.message


TWICE = b'{"columns": ["a", "b", "a"], "data": [[1, 2, 3]]}'


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"columns": ["a", "b"]}, b'[{"a": 1}]', "lacks the column 'b'; expected: a, b"),
        ({"columns": ["alpha"]}, b'[{"alpah": 1}]', "column 'alpah'.*Did you mean 'alpha'"),
        ({"dtype": "int64"}, b'[{"a": 1.5}]', "column 'a' holds float64"),
        ({"dtype": {"a": "int8"}}, b'[{"a": 300}]', "column 'a' holds 300; int8 holds -128 to 127"),
        ({"dtype": {"a": "float32"}}, b'[{"a": "2f"}]', "column 'a' holds .*expected float32"),
        ({"dtype": {"a": "int64"}}, b'[{"b": 1}]', "lacks the column 'a'"),
        ({"dtype": "int64", "orient": "split"}, TWICE, "has the column 'a' twice"),
        ({"dtype": {"a": "int64"}, "orient": "split"}, TWICE, "has the column 'a' twice"),
        ({"dtype": {"a": "datetime64[ns]"}}, b'[{"a": "soon"}]', "column 'a' cannot be cast"),
        ({"dtype": {"a": "int64"}}, b'[{"a": 1}, {}]', "column 'a' has no value in row 1, .*int64"),
        ({"dtype": {"a": "bool"}}, b'[{"a": null}]', "column 'a' has no value in row 0, .*bool"),
        ({"shape": (-1, 2)}, b'[{"a": 1}]', "has 1 rows and 1 columns; expected .-1, 2."),
        ({"columns": ["a"]}, b"[{}]", "lacks the column 'a'"),
        (
            {"columns": ["a"], "apply_column_names": True},
            b'[{"x": 1, "y": 2}]',
            "has 2 columns; expected 1",
        ),
    ],
    ids=[
        "missing",
        "unknown",
        "fraction",
        "range",
        "text",
        "dtype",
        "twice",
        "twice by name",
        "time",
        "lacking",
        "null",
        "shape",
        "nothing",
        "names",
    ],
)
def test_a_frame_that_does_not_fit_is_refused(options: Any, data: bytes, message: str) -> None:
    """The message names the column."""
    with pytest.raises(InvalidInput, match=message):
        PandasDataFrame(**options).read(Body(data, JSON))


@pytest.mark.parametrize(
    ("orient", "data"),
    [("records", b"[]"), ("columns", b"{}"), ("index", b"{}"), ("values", b"[]")],
)
def test_a_frame_without_rows_has_the_columns_that_are_declared(orient: str, data: bytes) -> None:
    """With their dtypes: JSON without rows names no columns."""
    dtypes = {"a": "int64", "b": "float32", "c": "bool", "d": "datetime64[ns]"}
    for columns in (list(dtypes), None):
        descriptor = PandasDataFrame(orient, columns=columns, dtype=dtypes, shape=(None, 4))
        frame = descriptor.read(Body(data, JSON))
        assert {name: str(each) for name, each in frame.dtypes.items()} == dtypes
    named = PandasDataFrame(orient, columns=["a"], apply_column_names=True)
    assert named.read(Body(data, JSON)).columns.tolist() == ["a"]


def test_the_charset_of_text_is_honoured() -> None:
    """In CSV and JSON; Parquet has none, and what is not read is said."""
    for content_type, text in ((CSV, "name\nÃ©\n"), (JSON, '[{"name": "Ã©"}]')):
        for charset in ("iso-8859-1", "utf-16", "utf-8"):
            body = Body(text.encode(charset), f"{content_type}; charset={charset}")
            assert PandasDataFrame().read(body)["name"].tolist() == ["Ã©"]
        with pytest.raises(InvalidInput, match="no text in ascii"):
            PandasDataFrame().read(Body(text.encode(), content_type + "; charset=ascii"))
        with pytest.raises(UnsupportedForm, match="charset 'nonsense' is not read"):
            PandasDataFrame().read(Body(text.encode(), content_type + "; charset=nonsense"))


def test_columns_are_ordered_named_and_cast() -> None:
    """So that the function gets what it was written for."""
    data = Body(b'[{"b": 1, "a": 2}]', JSON)
    frame = PandasDataFrame(columns=["a", "b"], dtype="float32", shape=(-1, 2)).read(data)
    assert (list(frame.columns), frame.to_numpy().tolist()) == (["a", "b"], [[2, 1]])
    assert {str(each) for each in frame.dtypes} == {"float32"}
    whole = PandasDataFrame(dtype="int64").read(Body(b'[{"a": 9007199254740992.0}]', JSON))
    assert whole["a"].tolist() == [2**53]
    named = PandasDataFrame("values", columns=["a", "b"], apply_column_names=True)
    assert named.read(Body(b"[[1, 2]]", JSON))["b"].tolist() == [2]


@pytest.mark.parametrize(
    ("descriptor", "value", "message"),
    [
        (PandasDataFrame(), 5, "DataFrame constructor"),
        (PandasDataFrame(), pandas.DataFrame([[1, 2]], columns=["a", "a"]), "different names"),
        (PandasDataFrame("index"), FRAME.set_axis([1, 1]), "different labels"),
        (PandasDataFrame(), pandas.DataFrame({"a": [object()]}), "type object has no form in JSON"),
        (PandasDataFrame(columns=["z"]), FRAME, "not known"),
        (PandasDataFrame(default_format="parquet"), pandas.DataFrame({"a": [1, "x"]}), "a"),
    ],
    ids=["number", "names", "labels", "object", "columns", "parquet"],
)
def test_results_that_cannot_be_written(descriptor: Any, value: Any, message: str) -> None:
    """The endpoint's error."""
    with pytest.raises(ModelError, match=f"no such data frame: .*{message}"):
        descriptor.write(value)


def test_declarations_and_samples() -> None:
    """A word that is not known is found at once; a sample gives columns, dtypes and an example."""
    for options, message in (
        ({"orient": "record"}, "Did you mean 'records'"),
        ({"default_format": "xml"}, "default_format"),
        ({"apply_column_names": True}, "needs columns"),
        ({"shape": (1,)}, "rows and columns"),
        ({"shape": (None, "2")}, "expected sizes"),
        ({"shape": 2}, "expected sizes"),
        ({"dtype": {"a": "flaot"}}, "no such dtype"),
    ):
        with pytest.raises(ConfigError, match=message):
            PandasDataFrame(**options)  # type: ignore[arg-type]
    descriptor = PandasDataFrame.from_sample(FRAME)
    assert (descriptor.columns, descriptor.dtype) == (
        ("a", "b", "c"),
        {"a": "int64", "c": "float64"},
    )
    content = descriptor.schema()[JSON]
    assert content["example"] == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": None, "c": None}]
    assert content["schema"]["items"]["properties"]["a"] == {"type": "integer"}
    assert list(PandasDataFrame(default_format="parquet").schema()) == [PARQUET, JSON, CSV]
    with pytest.raises(ConfigError, match="no data frame"):
        PandasDataFrame.from_sample(5)

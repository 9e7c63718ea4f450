"""Data frames in and out: which form a body has, and what a frame must be like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfrunner.errors import ConfigError, InvalidInput, ModelError, did_you_mean
from tfrunner.io.body import BINARY, UNTOLD, Body, check_type, media_type
from tfrunner.io.fitting import cast, check_shape, is_shape
from tfrunner.io.frame_forms import read_csv, read_parquet, write_csv, write_parquet
from tfrunner.io.frame_json import ORIENTS, read_json, to_plain, write_json
from tfrunner.io.json_value import NAME as JSON
from tfrunner.io.json_value import READ as JSON_TYPES
from tfrunner.io.packages import require
from tfrunner.io.samples import json_type, plain, with_example
from tfrunner.io.text import in_utf8
from tfrunner.tensors import DTYPES, STRING

if TYPE_CHECKING:
    from pandas import DataFrame, Series

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
PARQUETS = (PARQUET, "application/parquet", "application/x-parquet", "application/octet-stream")
TEXT = ("str", "string", "object")
"""Pandas' words for text."""

FORMS = {"json": JSON, "csv": CSV, "parquet": PARQUET}


class PandasDataFrame:
    """A data frame: JSON, CSV or Parquet, by the body's Content-Type.

    Args:
        orient: How JSON holds it, one of pandas' words: `records`, `columns`, `index`, `split`
            or `values`.
        columns: Those it must have; they are put into this order.
        apply_column_names: The columns are named so instead, one after the other.
        dtype: What all columns, or those of a dict by name, are cast to. Numbers are cast as
            those of predict requests are: what would change a value is refused.
        shape: Rows and columns that it must have, -1 or None where any number goes.
        default_format: What is written, and what a body without Content-Type is: `json`, `csv`
            or `parquet`.

    Raises:
        ConfigError: A word is not known, names are missing, or a package is not installed.
    """

    is_slow = True

    def __init__(
        self,
        orient: str = "records",
        *,
        columns: Sequence[str] | None = None,
        apply_column_names: bool = False,
        dtype: str | Mapping[str, str] | None = None,
        shape: Sequence[int | None] | None = None,
        default_format: str = "json",
    ) -> None:
        require("pandas", package="pandas", what="PandasDataFrame")
        _check_word("orient", orient, ORIENTS)
        _check_word("default_format", default_format, FORMS)
        if default_format == "parquet":
            require("pyarrow.parquet", package="pyarrow", what="default_format='parquet'")
        if apply_column_names and columns is None:
            raise ConfigError("PandasDataFrame(apply_column_names=True) needs columns.")
        sizes = None if shape is None else check_shape(shape, what="PandasDataFrame")
        if sizes is not None and len(sizes) != 2:
            raise ConfigError(f"PandasDataFrame(shape={shape!r}): expected rows and columns.")
        for each in dtype.values() if isinstance(dtype, Mapping) else [dtype] if dtype else []:
            _check_dtype(each)
        self.orient = orient
        self.columns = None if columns is None else tuple(columns)
        self.apply_column_names = apply_column_names
        self.dtype = dtype
        self.shape = sizes
        self.default_format = default_format
        self._example: Any = None

    @classmethod
    def from_sample(cls, sample: Any, orient: str = "records", **options: Any) -> PandasDataFrame:
        """Return the descriptor of frames like this one, which is shown as their example.

        Args:
            sample: A frame, or what pandas makes one of. Its columns and their dtypes are taken.
            orient: As above.
            options: As above; they go before what the sample says.

        Raises:
            ConfigError: It is no frame.
        """
        cls(orient)  # says what is not installed
        import pandas

        try:
            frame = pandas.DataFrame(sample)
            found = {
                "columns": [str(name) for name in frame.columns],
                "dtype": {
                    str(name): str(frame[name].dtype)
                    for name in frame.columns
                    if frame[name].dtype.name in DTYPES and frame[name].dtype != object
                },
            }
            descriptor = cls(orient, **{**found, **options})
            descriptor._example = plain(to_plain(frame, orient))
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"PandasDataFrame.from_sample: no data frame: {exc}") from exc
        return descriptor

    def read(self, body: Body) -> DataFrame:
        """Return the frame of a body.

        Raises:
            UnsupportedForm: It is neither JSON nor CSV nor Parquet, or in a charset that is not
                read, or pyarrow is not installed.
            InvalidInput: It is broken or cut off, or does not fit columns, dtype and shape. The
                message names the column.
            TooLarge: It has more values than are taken, or is Parquet that unpacks to more.
        """
        name = media_type(body.content_type)
        check_type(name, (CSV, *PARQUETS, *JSON_TYPES), what="a data frame")
        if name in UNTOLD:
            name = FORMS[self.default_format]
        if name == CSV:
            frame = read_csv(in_utf8(body), self._text_columns())
        elif name in PARQUETS:
            frame = read_parquet(body.data)
        else:
            frame = read_json(in_utf8(body), self.orient)
        return self._check(frame)

    def _check(self, frame: DataFrame) -> DataFrame:
        if frame.shape == (0, 0):  # no rows, which in JSON name no columns
            named = self.dtype if isinstance(self.dtype, Mapping) else ()
            frame = frame.reindex(columns=list(self.columns or named))
        if self.columns is not None:
            frame = self._name(frame) if self.apply_column_names else self._order(frame)
        if self.shape is not None and not is_shape(frame.shape, self.shape):
            raise InvalidInput(
                f"the data frame has {frame.shape[0]} rows and {frame.shape[1]} columns; expected "
                f"{list(self.shape)}, -1 for any number."
            )
        return frame if self.dtype is None else self._cast(frame)

    def _name(self, frame: DataFrame) -> DataFrame:
        assert self.columns is not None
        if frame.shape[1] != len(self.columns):
            raise InvalidInput(
                f"the data frame has {frame.shape[1]} columns; expected {len(self.columns)}: "
                f"{', '.join(self.columns)}."
            )
        return frame.set_axis(list(self.columns), axis=1)

    def _order(self, frame: DataFrame) -> DataFrame:
        """Return the columns in the order that was declared."""
        assert self.columns is not None
        names = [str(name) for name in frame.columns]
        for name in names:
            if name not in self.columns:
                raise InvalidInput(
                    f"the data frame has a column {name!r}, which is not known."
                    f"{did_you_mean(name, self.columns)}"
                )
            if names.count(name) > 1:
                raise InvalidInput(f"the data frame has the column {name!r} twice.")
        for name in self.columns:
            if name not in names:
                raise InvalidInput(
                    f"the data frame lacks the column {name!r}; expected: "
                    f"{', '.join(self.columns)}."
                )
        return frame.set_axis(names, axis=1)[list(self.columns)]

    def _cast(self, frame: DataFrame) -> DataFrame:
        if isinstance(self.dtype, Mapping):
            wanted = self.dtype
        else:
            wanted = {name: str(self.dtype) for name in frame.columns}
        missing = [name for name in wanted if name not in frame.columns]
        if missing:
            raise InvalidInput(f"the data frame lacks the column {missing[0]!r}.")
        for name in frame.columns[frame.columns.duplicated()]:
            if name in wanted:
                raise InvalidInput(f"the data frame has the column {name!r} twice.")
        frame = frame.copy(deep=False)
        for name, dtype in wanted.items():
            frame[name] = _cast_column(frame[name], dtype)
        return frame

    def _text_columns(self) -> list[str]:
        """Return the columns of CSV files whose values are text, whatever they look like."""
        if not isinstance(self.dtype, Mapping) or self.apply_column_names:
            return []
        return [name for name, dtype in self.dtype.items() if dtype in TEXT]

    def write(self, value: Any) -> Body:
        """Return the body of a frame, or of what pandas makes one of, as `default_format`.

        JSON and CSV: what is missing (NaN, None, NaT) is null, or empty; infinities are tokens.

        Raises:
            ModelError: It is no frame, does not fit, or the format cannot hold it.
        """
        import pandas

        try:
            frame = value if isinstance(value, pandas.DataFrame) else pandas.DataFrame(value)
            frame = self._check(frame)
            if self.default_format == "csv":
                data = write_csv(frame)
            elif self.default_format == "parquet":
                data = write_parquet(frame)
            else:
                data = write_json(frame, self.orient)
        except (TypeError, ValueError, InvalidInput) as exc:
            raise ModelError(f"the endpoint's result is no such data frame: {exc}") from exc
        return Body(data, FORMS[self.default_format])

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`, what is written first."""
        forms = {
            JSON: with_example(self._json_schema(), self._example),
            CSV: {"schema": {"type": "string", "description": "the first line names the columns"}},
            PARQUET: {"schema": BINARY},
        }
        first = FORMS[self.default_format]
        return {first: forms.pop(first), **forms}

    def written(self) -> dict[str, Any]:
        """Return OpenAPI's `content` of what is written."""
        return dict([next(iter(self.schema().items()))])

    def _json_schema(self) -> dict[str, Any]:
        described = {"description": f"a data frame as pandas writes it, orient {self.orient!r}"}
        if self.orient != "records":
            kind = "array" if self.orient == "values" else "object"
            return {"type": kind, **described}
        named: dict[str, Any] = {name: {} for name in self.columns or ()}
        if isinstance(self.dtype, Mapping):
            named |= {name: {"type": json_type(dtype)} for name, dtype in self.dtype.items()}
        items = {"type": "object", "properties": named, "required": list(self.columns or ())}
        return {"type": "array", "items": items, **described}


def _check_word(option: str, word: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    if word not in known:
        raise ConfigError(
            f"PandasDataFrame({option}={word!r}): not known.{did_you_mean(word, known)}"
        )


def _check_dtype(dtype: Any) -> None:
    import pandas

    try:
        pandas.api.types.pandas_dtype(dtype)
    except TypeError as exc:
        raise ConfigError(f"PandasDataFrame(dtype={dtype!r}): pandas has no such dtype.") from exc


def _cast_column(column: Series, dtype: str) -> Any:
    """Return a column as a dtype: ours as in predict requests, pandas' own as pandas does."""
    is_ours = dtype in DTYPES and dtype != STRING and not DTYPES[dtype].hasobject
    if is_ours and not column.empty:  # an empty one has no dtype of its own
        _check_whole(column, dtype)
        try:
            return cast(column, dtype, str(column.name))
        except InvalidInput as exc:
            raise InvalidInput("column" + exc.message.removeprefix("input")) from exc
    try:
        return column.astype(dtype)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidInput(f"column {column.name!r} cannot be cast to {dtype}: {exc}") from None


def _check_whole(column: Series, dtype: str) -> None:
    """Refuse a column that lacks values where its dtype has none for what is missing."""
    if DTYPES[dtype].kind in "biu" and column.hasnans:
        row = int(column.isna().to_numpy().argmax())
        raise InvalidInput(
            f"column {str(column.name)!r} has no value in row {row}, counted from 0; {dtype} "
            "cannot hold what is missing."
        )

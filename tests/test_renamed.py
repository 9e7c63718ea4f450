"""What BentoML's users paste: its names, the same ones that are gone, and what is said of them."""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tfrunner
from tests.test_store import put
from tfrunner import exceptions
from tfrunner.entry import ModelInfo
from tfrunner.errors import (
    ConfigError,
    InvalidInput,
    NotFound,
    StateError,
    TFRunnerError,
    Unavailable,
)
from tfrunner.filing import Request, file_model
from tfrunner.remarks import remark
from tfrunner.renamed import INSTEAD
from tfrunner.store import Model, Store
from tfrunner.tags import Tag

PAGE = (Path(__file__).parent.parent / "docs/coming-from-bentoml.md").read_text()

CLASSES = {"Client": tfrunner.Client, "Model": Model, "ModelInfo": ModelInfo}

ALIASES = {
    "BadInput": InvalidInput,
    "BentoMLConfigException": ConfigError,
    "BentoMLException": TFRunnerError,
    "InvalidArgument": InvalidInput,
    "NotFound": NotFound,
    "ServiceUnavailable": Unavailable,
    "StateException": StateError,
}

DOCUMENTED = {
    "bentoml": "Service Runner Runnable Model Tag Context Cookie Strategy Resource HTTPServer "
    "GrpcServer monitor load serve models io metrics client exceptions tensorflow keras",
    "bentoml.tensorflow": "save_model load_model get get_runnable save load load_runner "
    "ModelOptions",
    "bentoml.models": "list get create delete export_model import_model push pull",
    "bentoml.io": "JSON NumpyNdarray PandasDataFrame PandasSeries Text File Image Multipart",
    "bentoml.metrics": "Counter Gauge Histogram Summary text_string_to_metric_families",
}
"""What BentoML's own page of its API names."""


@pytest.fixture
def model(home: Path) -> Model:
    """Return a model of a store."""
    return put(Store(home), "iris:v1")


def cases() -> list[tuple[str, str]]:
    """Return every name that there is not, with its module or class."""
    return [(owner, name) for owner, names in INSTEAD.items() for name in names]


@pytest.mark.parametrize(("owner", "name"), cases(), ids=lambda each: str(each))
def test_a_name_that_is_gone_says_what_there_is(owner: str, name: str, model: Model) -> None:
    """As an AttributeError, so that `hasattr` and `getattr` with a default go on working."""
    runner = model.to_runner()
    places = {"Runner": runner, **CLASSES}
    place: Any = places[owner] if owner in places else importlib.import_module(owner)
    with pytest.raises(AttributeError) as caught:
        getattr(place, name)
    assert INSTEAD[owner][name] in str(caught.value)
    assert not hasattr(place, name)


@pytest.mark.parametrize(("owner", "name"), cases(), ids=lambda each: str(each))
def test_the_page_has_every_name_that_is_gone(owner: str, name: str) -> None:
    """With something beside it."""
    rows = [line for line in PAGE.splitlines() if re.search(rf"^\|[^|]*\b{name}\b", line)]
    assert rows, f"{owner}.{name}"
    assert all(len(row.split("|")[2].strip()) > 3 for row in rows)


@pytest.mark.parametrize("owner", DOCUMENTED)
def test_what_bentoml_documents_is_here_or_on_the_page(owner: str) -> None:
    """A name that is neither is found out by whoever moves."""
    place = importlib.import_module(owner.replace("bentoml", "tfrunner"))
    gone = [name for name in DOCUMENTED[owner].split() if not hasattr(place, name)]
    assert [name for name in gone if not re.search(rf"^\|[^|]*\b{name}\b", PAGE, re.M)] == []


def test_a_name_that_never_was_is_refused_as_ever() -> None:
    """Of modules and of runners."""
    for module in (tfrunner, tfrunner.tensorflow, tfrunner.keras, tfrunner.models):
        with pytest.raises(AttributeError, match=r"no attribute 'nothing_like_it'$"):
            _ = module.nothing_like_it


def test_errors_have_the_names_of_both() -> None:
    """The same classes, so that what is caught stays caught."""
    assert {name: getattr(exceptions, name) for name in exceptions.__all__} == ALIASES
    assert tfrunner.exceptions is exceptions
    assert sorted(name for name in ALIASES if f"`{name}`" not in PAGE) == []


@pytest.mark.parametrize("parse", [Tag.from_str, Tag.from_taglike], ids=["str", "taglike"])
def test_tags_are_parsed_under_three_names(parse: Callable[[Any], Tag]) -> None:
    """Text and tags alike."""
    assert parse("iris:v1") == Tag("iris", "v1")
    assert parse(Tag("iris")) == Tag("iris")


def test_a_model_has_the_short_ways_of_bentoml(model: Model) -> None:
    """Its files, its size, and a runner that is named by position."""
    assert model.path_of("model.yaml").read_bytes() == (model.path / "model.yaml").read_bytes()
    assert model.file_size == model.size > 0
    assert model.path_of("saved_model").is_dir()
    runner = model.to_runner("flowers", scheduling_strategy=None)
    assert (runner.name, runner.models) == ("flowers", (model,))


def test_a_strategy_is_refused_with_what_decides_instead(model: Model) -> None:
    """Of a model's runner and of a Runnable's."""
    strategy: Any = object
    with pytest.raises(ConfigError, match="--workers-per-gpu"):
        model.to_runner(scheduling_strategy=strategy)


def test_an_optimizer_is_never_left_out() -> None:
    """The option is known, and refused where it would mean something else."""
    with pytest.raises(InvalidInput, match="Leave it out"):
        tfrunner.keras.save_model("iris", None, include_optimizer=False)
    with pytest.raises(InvalidInput, match="'no name!' is not allowed"):
        tfrunner.keras.save_model("no name!", None, include_optimizer=True)


@pytest.mark.parametrize(
    "wrong", [{"metadata": [1]}, {"labels": ["a"]}], ids=["metadata", "labels"]
)
def test_what_is_no_dict_is_refused_by_name(wrong: dict[str, Any], home: Path) -> None:
    """Before anything is written."""
    (name,) = wrong
    with pytest.raises(InvalidInput, match=f"{name} is a list; expected a dict"):
        file_model(object(), "iris", Request("tensorflow", **wrong), home=None)


@pytest.mark.parametrize(
    "warn",
    [
        lambda: Tag("Iris"),
        lambda: Tag.parse("Iris"),
        lambda: tfrunner.models.list("Iris"),
        lambda: remark("hear"),
    ],
    ids=["made", "parsed", "inside", "itself"],
)
def test_a_warning_points_at_the_line_of_the_caller(warn: Callable[[], Any], home: Path) -> None:
    """However deep inside it arose."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(NotFound):
            warn()
    assert [each.filename for each in caught] == [__file__]

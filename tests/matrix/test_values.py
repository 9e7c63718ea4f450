"""Every kind of input and output, and models from elsewhere: everywhere equal results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.matrix.cases import VALUES, Case
from tests.matrix.world import WAYS, Way, World, by_json, same, same_in_json, save_values
from tfrunner.testing import serve

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a server of these models, and runners of the same in this process."""
    models = save_values(tmp_path_factory.mktemp("values"))
    with serve(*models.values()) as client:
        yield World(models, client)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("case", VALUES, ids=lambda case: case.id)
def test_each_case_gives_the_same_everywhere(world: World, case: Case, way: Way) -> None:
    """In this process, through the dispatcher and a worker, and over HTTP."""
    same(way(world, case), case.gives)


@pytest.mark.parametrize("case", [case for case in VALUES if case.json], ids=lambda case: case.id)
def test_each_case_has_a_form_in_json(world: World, case: Case) -> None:
    """Named inputs and whole tensors, as `curl` sends them."""
    same_in_json(by_json(world, case), case.gives)

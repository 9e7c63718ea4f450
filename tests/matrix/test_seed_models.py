"""The models of the seed page, in this process and through real processes: equal results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.matrix.cases import SEED, Case
from tests.matrix.world import WAYS, Way, World, by_json, same, same_in_json, save_seed
from tfrunner.testing import serve

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a server of these models, and runners of the same in this process."""
    models = save_seed(tmp_path_factory.mktemp("seed"))
    with serve(*models.values()) as client:
        yield World(models, client)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("case", SEED, ids=lambda case: case.id)
def test_each_case_gives_the_same_everywhere(world: World, case: Case, way: Way) -> None:
    """In this process, through the dispatcher and a worker, and over HTTP."""
    same(way(world, case), case.gives)


@pytest.mark.parametrize("case", [case for case in SEED if case.json], ids=lambda case: case.id)
def test_each_case_has_a_form_in_json(world: World, case: Case) -> None:
    """Named inputs and whole tensors, as `curl` sends them."""
    same_in_json(by_json(world, case), case.gives)

"""README and docs: every code block runs, or is read by what reads it in earnest.

How, and what comments in the markdown can ask for, is said in docs_blocks.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs_blocks import PAGES, read_blocks
from tests.docs_world import make_stock, open_world

MOST_NOT_RUN = 12
"""What cannot run here stays the exception."""

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the models that pages may start with."""
    return make_stock(tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_works(
    page: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """In their order, as a reader would run them."""
    blocks = read_blocks(PAGES[page], page)
    needs_stock = any(block.language == "has" for block in blocks)
    stock = request.getfixturevalue("stock") if needs_stock else tmp_path
    with open_world(tmp_path, stock, blocks) as world:
        for block in blocks:
            world.perform(block)


def test_what_is_not_run_is_little_and_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """The list is printed, so that nobody overlooks how it grows."""
    found = [block for name, path in PAGES.items() for block in read_blocks(path, name)]
    left_out = [block for block in found if block.not_run]
    with capsys.disabled():
        print(f"\n{len(found)} code blocks, {len(left_out)} of them not run:")
        for block in left_out:
            print(f"  {block.place}: {block.not_run}")
    assert len(left_out) <= MOST_NOT_RUN
    assert all(len(block.not_run.split()) > 2 for block in left_out)

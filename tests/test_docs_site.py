"""The documentation as a site: it builds without a warning, is complete, and stands alone."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tfrunner
from tests.docs_blocks import PAGES, ROOT

LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


class Loads(HTMLParser):
    """Collects what a browser would load with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the address of what a tag loads."""
        named = dict(attrs)
        if tag in LOADS and named.get("rel") not in ("next", "prev", "canonical"):
            self.found.append(named.get(LOADS[tag]) or "")


def test_every_page_is_in_the_site(site: Path) -> None:
    """And in its navigation: mkdocs warns of those that are not, and warnings are errors."""
    pages = [Path(name) for name in PAGES if name.startswith("docs/")]
    for page in pages:
        inside = page.relative_to("docs").with_suffix("")
        folder = inside.parent if inside.name == "index" else inside
        assert (site / folder / "index.html").is_file(), page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, styles or pictures of other hosts; what is named is there."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert len(loads.found) > 3, page
        for address in loads.found:
            assert not re.match(r"(https?:)?//", address), f"{page}: {address}"
            if not address.startswith("data:"):
                top = site if address.startswith("/") else page.parent
                assert (top / address.partition("?")[0].lstrip("/")).exists(), f"{page}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_of_pages_beside_the_site_lead_somewhere(page: str) -> None:
    """Those in docs/ are checked by mkdocs."""
    targets = [target for target, _ in LINK.findall((ROOT / page).read_text())]
    assert targets
    for target in targets:
        assert re.match(r"https?://", target) or (ROOT / target).exists(), target


def public_names() -> dict[str, str]:
    """Return every public name by the path that users write, and where it is defined."""
    found = {}
    for name in tfrunner.__all__:
        value = getattr(tfrunner, name)
        if not inspect.ismodule(value):
            found[f"tfrunner.{name}"] = f"{value.__module__}.{name}"
            continue
        module = importlib.import_module(f"tfrunner.{name}")
        listed = getattr(module, "__all__", None) or [
            key
            for key, each in vars(module).items()
            if inspect.isclass(each) and each.__module__ == module.__name__
        ]
        for key in listed:
            home = getattr(getattr(module, key), "__module__", module.__name__)
            found[f"tfrunner.{name}.{key}"] = f"{home}.{key}"
    return found


def test_every_public_name_is_in_the_api_reference(site: Path) -> None:
    """With its docstring."""
    pages = [page.read_text() for page in (site / "api").rglob("*.html")]
    anchors = {each for page in pages for each in re.findall(r'id="(tfrunner\.[\w.]+)"', page)}
    names = public_names()
    assert len(names) > 40
    missing = [name for name, home in names.items() if not {name, home} & anchors]
    assert missing == []

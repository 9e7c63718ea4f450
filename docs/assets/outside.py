"""A hook of mkdocs: pages may show pictures of the repository that are not below docs/.

`../benchmarks/.../results.png` is right in the repository; the site gets a copy of it.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PICTURE = re.compile(r"\]\(\.\./((?:[\w-]+/)+([\w-]+\.png))\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take each such picture into the site, and name it by its place there."""
    root = Path(config.config_file_path).parent
    for path, name in PICTURE.findall(markdown):
        if files.get_file_from_path(f"pictures/{name}") is None:
            files.append(File.generated(config, f"pictures/{name}", abs_src_path=str(root / path)))
    return PICTURE.sub(r"](pictures/\2)", markdown)

"""The code blocks of the documentation, and what stands in the markdown about them.

What can be said in a comment, for the blocks of the same page:

    <!-- has: linear -->            the page's store has this model of docs_stock.py
    <!-- run: tfrunner serve x -->  a command that readers do not see
    <!-- not run: why -->           the next block cannot be run here

A block is a file if its first line is a comment with nothing but a file's name. A block of text,
JSON or YAML that directly follows one that runs, without a word between them, is what that one
prints; `...` in it stands for anything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}

RUNS = ("python", "pycon", "bash", "console")
ANSWERS = ("text", "json", "yaml")
DATA = ("json", "toml", "yaml", "ini", "dockerfile")

COMMENT = re.compile(r"<!--\s*(has|run|not run):\s*(.+?)\s*-->", re.DOTALL)
FILE = re.compile(r"(?:#|//) ([\w.-]+\.\w+|Dockerfile)$")


class Block(NamedTuple):
    """A code block, or what a comment of the page asks for.

    Attributes:
        page: Path of the page, relative to the root.
        line: The line of its first text, counted from 1.
        language: As the fence says; "has" and "run" for comments.
        text: What it holds.
        answers: Whether it is what the block before it prints.
        not_run: Why it cannot be run here, "" if it can.
    """

    page: str
    line: int
    language: str
    text: str
    answers: bool = False
    not_run: str = ""

    @property
    def place(self) -> str:
        """Where it stands, as editors understand it."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The file that it is, "" for none."""
        found = FILE.match(self.text.partition("\n")[0].strip())
        return found[1] if found and self.language not in ("bash", "console") else ""


def read_blocks(path: Path, page: str) -> list[Block]:
    """Return the blocks of a page in their order.

    Raises:
        AssertionError: A block does not say what it is, or a comment stands before none.
    """
    blocks: list[Block] = []
    not_run = ""
    is_next = False
    for token in MarkdownIt("commonmark").parse(path.read_text()):
        if token.type == "html_block":
            said, is_next = COMMENT.findall(token.content), False
            for kind, text in said:
                if kind == "not run":
                    not_run = text
                else:
                    blocks.append(Block(page, _line(token), kind, text))
        elif token.type in ("fence", "code_block"):
            block = _block(token, page, is_next and blocks[-1].language in RUNS, not_run)
            blocks.append(block)
            not_run, is_next = "", not block.not_run
        elif token.content or token.type == "heading_open":
            is_next = False
            assert not not_run, f"{page}: 'not run: {not_run}' stands before no block"
    assert not not_run, f"{page}: 'not run: {not_run}' stands before no block"
    return blocks


def _block(token: Token, page: str, is_next: bool, not_run: str) -> Block:
    language = token.info.split(maxsplit=1)[0] if token.info.strip() else ""
    line = _line(token) + (token.type == "fence")
    block = Block(page, line, language, token.content, not_run=not_run)
    assert token.type == "fence", f"{block.place}: indented; put it between ``` and say what it is"
    known = {*RUNS, *ANSWERS, *DATA}
    assert language in known, f"{block.place}: {language!r}; expected one of {sorted(known)}"
    return block._replace(answers=is_next and language in ANSWERS and not block.file)


def _line(token: Token) -> int:
    assert token.map is not None
    return token.map[0] + 1

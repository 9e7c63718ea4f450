"""The Python in which the blocks of a page run, one after the other, as in one session.

Reads one JSON object a line: a block's text, language, page and first line. Answers with one:
what it printed, and what went wrong. Started by docs_world.py in the page's folder.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import json
import os
import sys
import traceback
from types import ModuleType
from typing import Any

FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def main() -> None:
    """Run what comes until there is no more."""
    sys.path[0] = ""
    page = sys.modules["__main__"] = ModuleType("__main__")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what C code prints is not an answer
    for line in sys.stdin:
        asked = json.loads(line)
        printed, error = io.StringIO(), ""
        with contextlib.redirect_stdout(printed):
            try:
                {"python": run, "pycon": converse, "file": load}[asked["kind"]](asked, page)
            except (Exception, SystemExit):
                error = traceback.format_exc()
        print(json.dumps({"printed": printed.getvalue(), "error": error}), file=answers, flush=True)


def run(asked: dict[str, Any], page: ModuleType) -> None:
    """Run a block; `await` may stand outside of functions, as in a notebook."""
    tree = ast.parse(asked["text"], asked["path"])
    ast.increment_lineno(tree, asked["line"] - 1)  # tracebacks and AutoGraph read the page itself
    code = compile(tree, asked["path"], "exec", FLAGS)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, vars(page)))
    else:
        exec(code, vars(page))


def converse(asked: dict[str, Any], page: ModuleType) -> None:
    """Run what stands behind `>>>`, and compare what it shows."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    examples = doctest.DocTestParser().get_doctest(
        asked["text"], vars(page), asked["path"], asked["path"], asked["line"] - 1
    )
    examples.globs = vars(page)  # not the copy that it has taken
    said = io.StringIO()
    doctest.DocTestRunner(optionflags=options).run(examples, out=said.write, clear_globs=False)
    if said.getvalue() or not examples.examples:
        raise AssertionError(said.getvalue() or "there is no >>> in it")


def load(asked: dict[str, Any], page: ModuleType) -> None:
    """Import a file that no other block of the page uses."""
    importlib.import_module(asked["text"])


if __name__ == "__main__":
    main()

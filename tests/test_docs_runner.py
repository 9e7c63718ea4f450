"""What runs the documentation's blocks: a broken page fails, and says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs_blocks import read_blocks
from tests.docs_shell import commands, compare, exchanges
from tests.docs_world import open_world

BROKEN = {
    "python that raises": ("python", "1 / 0", "ZeroDivisionError"),
    "python that is none": ("python", "def", "SyntaxError"),
    "python that ends itself": ("python", "import os; os._exit(0)", "Python ended"),
    "a name of no earlier block": ("python", "print(unknown)", "NameError"),
    "another value": ("pycon", ">>> 1 + 1\n3", "Expected:"),
    "a prompt without code": ("pycon", "1 + 1", "no >>>"),
    "a command that fails": ("bash", "false", "exit code 1"),
    "a pipe that fails first": ("bash", "false | true", "exit code 1"),
    "a command that is none": ("bash", "tfrunner serv linear", "exit code 2"),
    "a server that does not start": ("bash", "tfrunner serve nothing", "No model"),
    "another answer": ("console", "$ echo 1\n2", "printed was\n1"),
    "an answer that goes on": ("console", "$ echo 1 2\n1", "printed was\n1 2"),
    "a console without command": ("console", "echo 1", "begins with"),
    "json": ("json", '{"a": }', "JSONDecodeError"),
    "yaml": ("yaml", "a: [", "ParserError"),
    "toml": ("toml", "a = ", "TOMLDecodeError"),
    "a key that is no option": ("toml", "[serve]\nprot = 1", "'port'"),
    "a value of another type": ("toml", "[serve]\nport = 'x'", "whole number"),
    "an unknown bound": ("toml", "[models.a]\nmax_batch = 1", "max_batch_size"),
    "no unit": ("ini", "ExecStart=x", "MissingSectionHeader"),
    "no Dockerfile": ("dockerfile", "FROM a\nRUNN b", "RUNN"),
    "a file that cannot be imported": ("python", "# broken.py\nimport nothing", "nothing"),
    "a configuration in a file": ("toml", "# tfrunner.toml\n[serv]", "'serve'"),
}


def perform(folder: Path, text: str) -> None:
    """Run a page that consists of this text."""
    file = folder / "page.md"
    file.write_text(text)
    blocks = read_blocks(file, "page.md")
    with open_world(folder, folder, blocks) as world:
        for block in blocks:
            world.perform(block)


@pytest.mark.parametrize(("language", "text", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_block_fails_with_its_place(
    tmp_path: Path, language: str, text: str, said: str
) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(AssertionError, match=r"^page\.md:4: ") as caught:
        perform(tmp_path, f"# Page\n\n```{language}\n{text}\n```\n")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```\nx\n```\n", "expected one of"),
        ("```ruby\nx\n```\n", "'ruby'"),
        ("Text.\n\n    x = 1\n", "indented"),
        ("<!-- not run: it is not here -->\n\nText.\n", "stands before no block"),
        ("<!-- not run: it is not here -->\n", "stands before no block"),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "printed was\n1"),
    ],
    ids=["no language", "unknown", "indented", "no block", "at the end", "an answer of its own"],
)
def test_a_page_must_say_what_its_blocks_are(tmp_path: Path, text: str, said: str) -> None:
    """Otherwise they would silently not run."""
    with pytest.raises(AssertionError) as caught:
        perform(tmp_path, text)
    assert said in str(caught.value)


def test_blocks_share_their_session_their_folder_and_their_files(tmp_path: Path) -> None:
    """And what is marked is left out."""
    perform(
        tmp_path,
        """
```python
# one.py
two = 2
```

```python
import one

three = one.two + 1
await __import__("asyncio").sleep(0)
print(three)
```

```text
3
```

```pycon
>>> three
3
>>> list(range(20))
[0, 1, ..., 19]
```

<!-- run: echo hidden > file -->

```console
$ cat file && \\
    echo more
hidden
more
$ python -c 'import one; print({"two": one.two})' | tr "'" '"'
{"two": 2}
```

<!-- not run: it would fail -->

```bash
false
```
""",
    )


def test_answers_may_leave_things_out() -> None:
    """`...` stands for anything, JSON is compared as JSON."""
    compare('{"b": 1,\n "a": [1, 2]}', '{"a":[1,2],"b":1}')
    compare('{"id":"8f2","value":[1.0]}', '{"id": "...", "value": [1.0]}')
    compare("HTTP/1.1 200 OK\r\nserver: x\r\n\r\n1", "HTTP/1.1 200 OK\n...\n1")
    for printed, shown in (("12", "1"), ('{"a":1}', '{"a":2}'), ("a b c", "a ... d"), ("", "x")):
        with pytest.raises(AssertionError):
            compare(printed, shown)


def test_commands_are_told_apart() -> None:
    """Lines that go on, and what is written into files, stay together."""
    assert commands("a \\\n  b\n\nc | d\n") == ["a b", "c | d"]
    assert commands("cat <<'END' > x\n1\n2\nEND\nb") == ["cat <<'END' > x\n1\n2\nEND", "b"]
    assert exchanges("$ a\n1\n2\n$ b\n") == [("a", "1\n2\n"), ("b", "")]

"""Shell blocks as text: their commands, what a page shows as their answers, and whether it fits."""

from __future__ import annotations

import contextlib
import json
import re


def commands(text: str) -> list[str]:
    """Return the commands of a shell block: lines, joined where one goes on in the next."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    found: list[str] = []
    end = ""
    for line in joined.splitlines():
        if end or (found and line.startswith((" ", "\t"))):
            found[-1] += "\n" + line
            end = "" if line == end else end
        elif line.strip():
            found.append(line)
            here = re.search(r"<<-?\s*'?(\w+)'?", line)
            end = here[1] if here else ""
    return found


def exchanges(text: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, those after `$`, with what each prints."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
            continue
        assert found, "a console begins with `$ ` and a command"
        command, answer = found[-1]
        if command.endswith("\\"):
            found[-1] = (command + "\n" + line, "")
        else:
            found[-1] = (command, answer + line + "\n")
    assert found, "a console has commands, after `$ `"
    return found


def compare(printed: str, shown: str) -> None:
    """Check that what was printed is what the page shows.

    Raises:
        AssertionError: It is not; the message has both.
    """
    if not shown.strip():
        return
    with contextlib.suppress(ValueError):
        if json.loads(printed) == json.loads(shown):
            return
    if shown.strip()[:1] in ("{", "["):  # JSON, however it is broken into lines
        printed, shown = (re.sub(r"\s+", "", text) for text in (printed, shown))
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in shown.split("..."))
    assert re.fullmatch(pattern, " ".join(printed.split())), (
        f"it shows\n{shown}\nbut printed was\n{printed}"
    )

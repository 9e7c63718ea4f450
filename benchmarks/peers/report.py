"""Tables in Markdown out of a book. Pure: a book's content in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.peers.summary import Line, lines, place_of
from benchmarks.peers.targets import targets

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def report(contents: Sequence[Mapping[str, Any]]) -> str:
    """Return all tables of one run of the suite, or of several that share no model.

    Raises:
        ValueError: Two of them measured the same model: their ratios are not of one run.
    """
    models = [name for content in contents for name in content["plans"]]
    if twice := {name for name in models if models.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))}: measured in two of the files; give one")

    def all_of(part: str) -> list[Any]:
        return [entry for content in contents for entry in content[part]]

    found = lines(all_of("runs"))
    parts = [
        *(line for content in contents for line in _head(content)),
        "### Targets\n",
        *_targets(found),
        "\n### Every cell\n",
        *_cells(found, all_of("missing")),
        "\n### What tuning tried\n",
        *_tuning(all_of("tuning")),
        "\n### Memory\n",
        *_memory(all_of("memory")),
    ]
    return "\n".join(parts) + "\n"


def replaced(page: str, tables: str) -> str:
    """Return a page with the part between the marks replaced; added where there are none."""
    block = f"{BEGIN}\n{tables}{END}"
    before, begin, rest = page.partition(BEGIN)
    if not begin:
        return f"{page.rstrip()}\n\n{block}\n"
    return before + block + rest.partition(END)[2]


def _head(content: Mapping[str, Any]) -> Iterator[str]:
    machine = content["machine"]
    yield f"`{content['command']}`: {content['seconds'] / 60:.0f} minutes on {content['started']}, "
    yield f"{machine['cores']} cores, Python {machine['python']}; load before the start: "
    yield f"{machine['load_at_start']:.1f}. Plans: "
    yield "; ".join(f"{name}: {plan}" for name, plan in content["plans"].items()) + ".\n"
    for name, version in content["versions"].items():
        yield f"* {name}: {version}"
    yield ""


def _targets(found: Sequence[Line]) -> Iterator[str]:
    yield "| target | asked | reached | |"
    yield "|---|---|---:|---|"
    for target in targets(found):
        got = "not measured" if target.got is None else f"{target.got:.2f}"
        verdict = {None: "", True: "met", False: "**missed**"}[target.is_met]
        yield f"| {target.what} | {target.asked} | {got} | {verdict} |"


def _cells(found: Sequence[Line], missing: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        "| model | body | load | server | settings | answers/s (lowest, highest) | ours by it "
        "| p50 ms | p99 ms | CPU s per 1000 | failed |"
    )
    yield "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|"
    rows = [(line.place, _row(line)) for line in found]
    for entry in missing:
        place = place_of(entry)
        reason = " ".join(entry["reason"].split())[:200].replace("|", "/")
        cells = f"{place.model} | {place.body} | {place.load} | {entry['contestant']}"
        rows.append((place, f"| {cells} | | missing: {reason} | | | | | |"))
    order = {place: number for number, (place, _) in reversed(list(enumerate(rows)))}
    for _, row in sorted(rows, key=lambda pair: order[pair[0]]):
        yield row


def _row(line: Line) -> str:
    low, high = line.spread
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}x"
    body = line.place.body if line.form == line.place.body else f"{line.place.body} ({line.form})"
    failed = f"{line.failed:.1%}" if line.failed else "0"
    times = f"{1e3 * line.p50:.2f} | {1e3 * line.p99:.2f} | {line.cpu:.3f}"
    return (
        f"| {line.place.model} | {body} | {line.place.load} | {line.contestant} | {line.settings} "
        f"| {line.rate:,.0f} ({low:,.0f}, {high:,.0f}) | {ratio} "
        f"| {times if line.rate else 'no answer in a round | |'} | {failed} |"
    )


def _tuning(tuning: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| model | server | connections | answers/s of each, best first |"
    yield "|---|---|---:|---|"
    for entry in tuning:
        ordered = sorted(entry["rates"].items(), key=lambda item: -item[1])
        tried = "; ".join(f"{choice}: {rate:,.0f}" for choice, rate in ordered)
        yield f"| {entry['model']} | {entry['peer']} | {entry['connections']} | {tried} |"


def _memory(memory: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| model | server | idle CPU | resident MB | its own MB, by process, largest first |"
    yield "|---|---|---:|---:|---|"
    for entry in memory:
        held = sorted(entry["processes"], key=lambda each: -each["anonymous"])
        listed = ", ".join(f"{each['anonymous']:.0f} ({each['name']})" for each in held)
        total = sum(each["anonymous"] for each in held)
        resident = sum(each["resident"] for each in held)
        yield (
            f"| {entry['model']} | {entry['server']} | {entry['idle']:.1%} of a core "
            f"| {resident:.0f} | {total:.0f} = {listed} |"
        )

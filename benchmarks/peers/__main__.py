"""Measure tfrunner with nothing set against other Python model servers.

    python -m benchmarks.peers --quick              # the cells that have a target, 15 minutes
    python -m benchmarks.peers --full               # everything, hours
    python -m benchmarks.peers --full --models cnn --peers ray mosec
    python -m benchmarks.peers --report results/*.json  # the tables and the plot of several runs

Writes raw results (JSON), a table (Markdown, also into --page) and a plot (PNG) into --out.
Needs wrk, the extras `cpu` and `plot`, and PyPI for the peers' environments.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import book, environments, plot, report
from benchmarks.peers.contestants import PEERS
from benchmarks.peers.environments import Environment
from benchmarks.peers.load import Missing, find_wrk
from benchmarks.peers.matches import (
    FULL_EFFORT,
    QUICK_EFFORT,
    TRY_EFFORT,
    Match,
    full,
    quick,
)
from benchmarks.peers.measuring import play
from benchmarks.peers.models import MODELS, Made, make
from benchmarks.peers.tools import Tools

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Do what the command line says; return the exit status."""
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.report:
        write([json.loads(each.read_text()) for each in options.report], options)
        return 0
    try:
        find_wrk()
    except Missing as exc:
        print(exc, file=sys.stderr)
        return 2
    started = time.monotonic()
    matches = full(options.models, options.peers) if options.full else quick()
    matches = [match for match in matches if match.model in options.models]
    peers = {c.peer for match in matches for c in match.contestants()} & PEERS.keys()
    found = {
        name: environments.find(PEERS[name].requirements, options.environments, say=say)
        for name in sorted(peers)
    }
    if options.prepare:
        return 0
    made = {match.model: prepare(match, options.environments) for match in matches}
    content = measure(matches, made, found, options)
    content["seconds"] = time.monotonic() - started
    (options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    write([content], options)
    say(f"{content['seconds'] / 60:.1f} minutes")
    return 0


def read_options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quick", action="store_true", help="the cells that have a target")
    what.add_argument("--full", action="store_true", help="every cell")
    what.add_argument(
        "--report", type=Path, nargs="+", metavar="FILE", help="show results of these runs again"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--once", action="store_true", help="one round of a second: a look")
    parser.add_argument("--prepare", action="store_true", help="only make the environments")
    cache = Path.home() / ".cache" / "tfrunner-benchmarks"
    parser.add_argument("--environments", type=Path, default=cache, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a page to put the table into")
    return parser.parse_args()


def prepare(match: Match, folder: Path) -> Made:
    """Return a match's model, built if need be."""
    say(f"model {match.model}")
    return make(MODELS[match.model], folder / "models")


def measure(
    matches: list[Match],
    made: dict[str, Made],
    found: dict[str, Environment],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Play all matches; return the book's content."""
    effort = TRY_EFFORT if options.once else FULL_EFFORT if options.full else QUICK_EFFORT
    plans = {
        name: json.loads((each.folder / "frozen.json").read_text())["plan"]
        for name, each in made.items()
    }
    versions = {name: each.packages or f"missing: {each.reason}" for name, each in found.items()}
    command = " ".join(
        [
            f"python -m benchmarks.peers {'--full' if options.full else '--quick'}",
            *(["--models", *options.models] if len(options.models) < len(MODELS) else []),
            *(["--peers", *options.peers] if len(options.peers) < len(PEERS) else []),
        ]
    )
    path = options.out / "results.json"
    results = book.new(path, command=command, versions=versions, plans=plans)
    with tempfile.TemporaryDirectory(prefix="tfb") as folder:
        tools = Tools(found, effort, results, Path(folder), say)
        for match in matches:
            say(f"{match.model}: {', '.join(c.name for c in match.contestants())}")
            play(match, made[match.model], tools)
            results.save()
    return results.content


def write(contents: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the table and the plot."""
    tables = report.report(contents)
    (options.out / "results.md").write_text(tables)
    plot.draw([run for content in contents for run in content["runs"]], options.out / "results.png")
    if options.page:
        page = options.page.read_text() if options.page.exists() else "# Performance\n"
        options.page.write_text(report.replaced(page, tables))
    print(tables)


def say(line: str) -> None:
    """Show a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

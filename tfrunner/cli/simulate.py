"""`tfrunner simulate`: how policies fare on arrivals, and how many workers a trace needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from tfrunner.cli.tables import json_option, print_json, print_table
from tfrunner.config import DEFAULTS, check_positive, home
from tfrunner.errors import ConfigError
from tfrunner.simulator.arrivals import Arrivals, Recorded
from tfrunner.simulator.charts import bars
from tfrunner.simulator.contestants import (
    BEST_STATIC,
    CONTESTANTS,
    SHIPPED,
    Row,
    compare,
    policy_maker,
)
from tfrunner.simulator.knowledge import find_learned
from tfrunner.simulator.models import Cost, Drift, Noisy
from tfrunner.simulator.parsing import (
    ARRIVAL_FORMS,
    MODEL_FORMS,
    parse_arrivals,
    parse_model,
    parse_number,
    parse_seconds,
)
from tfrunner.simulator.plots import draw_comparison
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.search import Plan, plan_workers
from tfrunner.simulator.traces import read_trace

CHART_WIDTH = 40
COLUMNS = (
    *("arrivals", "policy", "in time/s", "in time", "mean", "p50", "p99"),
    *("busy", "refused", "rows/batch"),
)
PLAN_COLUMNS = ("workers", "p99", "mean", "busy", "refused")

DAY = 1_000_000
"""Most requests of a recorded trace that are played where nothing else is asked for."""


@click.command()
@click.argument("trace", required=False, type=click.Path(path_type=Path))
@click.option("--model", help=f"{MODEL_FORMS}; else what was learned.")
@click.option("--arrivals", multiple=True, help=f"{ARRIVAL_FORMS}; may be repeated.")
@click.option("--requests", type=int, help="How many; 20000, or all of a trace.")
@click.option("--workers", default=1, show_default=True, help="Workers of the model.")
@click.option("--speeds", default="", metavar="1,1,0.5", help="Speed of each worker instead.")
@click.option("--max-batch-size", default=DEFAULTS.max_batch_size, show_default=True, help="Rows.")
@click.option("--deadline", default=f"{DEFAULTS.timeout:g}s", show_default=True, help="Time.")
@click.option("--transfer", default="0.3ms", show_default=True, help="To a worker and back.")
@click.option("--noise", default=0.0, help="Sigma of a lognormal factor on each batch.")
@click.option("--drift", default="", metavar="TIME,FACTOR", help="Batches take longer from then.")
@click.option("--first-run", default="0s", help="The first batch of a size takes longer.")
@click.option("--cold", is_flag=True, help="Workers time no size before they say ready.")
@click.option("--policy", multiple=True, help=f"{', '.join((*CONTESTANTS, BEST_STATIC))}.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--plan", is_flag=True, help="Say how many workers the arrivals need for --p99.")
@click.option("--p99", help="Time in which 99 of 100 requests must be answered.")
@click.option("--plot", type=click.Path(path_type=Path), help="PNG file to draw.")
@click.option("--chart", is_flag=True, help="Draw bars in the terminal.")
@json_option
def simulate(trace: Path | None, as_json: bool, **options: Any) -> None:
    """Play arrivals against the dispatcher in virtual time.

    TRACE is a file that `tfrunner serve --record FILE` has written. The dispatcher's core is
    the one that serves; only the workers and the clock are simulated.
    """
    arrivals = read_arrivals(trace, options["arrivals"])
    options["model"] = options["model"] or learned_model(arrivals)
    scenario = read_scenario(options)
    if options["plan"]:
        _plan(scenario, arrivals, options, as_json=as_json)
        return
    if options["p99"]:
        raise ConfigError("--p99 is for --plan; deadlines are set with --deadline.")
    rows: list[Row] = []
    for name, each in arrivals.items():
        drawn = _draw(each, options)
        names = options["policy"] or tuple(CONTESTANTS)
        rows += compare(names, name, scenario, drawn, seed=options["seed"])
    _show(rows, options, as_json=as_json)


def read_scenario(options: dict[str, Any]) -> Scenario:
    """Return what the options describe.

    Raises:
        ConfigError: One of them makes no sense.
    """
    check_positive("--workers", options["workers"])
    check_positive("--max-batch-size", options["max_batch_size"])
    check_positive("--noise", options["noise"], least=0)
    check_positive("--seed", options["seed"], least=0)
    cost: Cost = parse_model(options["model"])
    if options["noise"]:
        cost = Noisy(cost, options["noise"])
    if options["drift"]:
        at, _, factor = options["drift"].partition(",")
        cost = Drift(cost, parse_seconds(at), parse_number(factor))
    speeds = tuple(parse_number(each) for each in options["speeds"].split(",") if each)
    deadline = parse_seconds(options["deadline"])
    check_positive("--deadline", deadline, least=1e-6)
    return Scenario(
        cost,
        speeds=speeds or (1.0,) * options["workers"],
        max_batch_size=options["max_batch_size"],
        deadline=deadline,
        transfer=parse_seconds(options["transfer"]),
        first_run=parse_seconds(options["first_run"]),
        is_warm=not options["cold"],
    )


def learned_model(arrivals: dict[str, Arrivals]) -> str:
    """Return the model whose requests were recorded, by what a server here has learned of it.

    Raises:
        ConfigError: Nothing was recorded, of more than one model, or nothing was learned.
    """
    traces = [each.trace for each in arrivals.values() if isinstance(each, Recorded)]
    tags = {tag for each in traces for tag in each.models}
    if len(tags) != 1:
        raise ConfigError(f"say what a batch takes: --model {MODEL_FORMS}.")
    return f"learned:{find_learned(home(), tags.pop())}"


def read_arrivals(trace: Path | None, texts: Sequence[str]) -> dict[str, Arrivals]:
    """Return the arrivals that are asked for, by their names.

    Raises:
        ConfigError: There are none, or they cannot be understood.
    """
    found: dict[str, Arrivals] = {text: parse_arrivals(text) for text in texts}
    if trace is not None:
        found[trace.name] = Recorded(read_trace(trace))
    if not found:
        raise ConfigError(f"say what comes: a TRACE, or --arrivals {ARRIVAL_FORMS}.")
    return found


def _draw(arrivals: Arrivals, options: dict[str, Any]) -> Any:
    """Return the trace that is played."""
    requests = options["requests"]
    if requests is None:
        requests = DAY if isinstance(arrivals, Recorded) else 20_000
    check_positive("--requests", requests)
    return arrivals.draw(requests, np.random.default_rng(options["seed"]))


def _show(rows: Sequence[Row], options: dict[str, Any], *, as_json: bool) -> None:
    """Print the table, or JSON; draw what is asked for."""
    if as_json:
        found = [
            {"arrivals": row.arrivals, "policy": row.policy, **_plain(row.summary)} for row in rows
        ]
        print_json(found)
    else:
        numbers = frozenset(COLUMNS[2:])
        print_table(title(options), COLUMNS, map(cells, rows), numbers=numbers)
    if options["chart"]:
        values = [row.summary.goodput for row in rows]
        labels = [f"{row.arrivals} {row.policy}" for row in rows]
        texts = [f"{value:.0f}/s" for value in values]
        click.echo(bars(labels, values, texts, CHART_WIDTH))
    if options["plot"]:
        draw_comparison(rows, options["plot"], title=title(options))


def title(options: dict[str, Any]) -> str:
    """Return what was simulated, in a line."""
    fleet = options["speeds"] or f"{options['workers']} workers"
    return f"{options['model']}, {fleet}, {options['max_batch_size']} rows, {options['deadline']}"


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table."""
    s = row.summary
    return (
        *(row.arrivals, row.policy, f"{s.goodput:.0f}", f"{s.in_time:.1%}"),
        *(_ms(s.mean), _ms(s.p50), _ms(s.p99), f"{s.utilisation:.0%}"),
        *(f"{s.refused:.1%}", f"{s.rows:.1f}"),
    )


def _ms(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:.2f} ms"


def _plain(summary: Any) -> dict[str, float | None]:
    """Return the numbers as JSON has them: what is not known is null."""
    found = summary._asdict().items()
    return {name: value if math.isfinite(value) else None for name, value in found}


def _plan(
    scenario: Scenario,
    arrivals: dict[str, Arrivals],
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Say how many workers are needed."""
    if not options["p99"]:
        raise ConfigError("say what --plan shall keep: --p99 50ms.")
    if len(arrivals) > 1:
        raise ConfigError("--plan takes one trace or one --arrivals at a time.")
    p99 = parse_seconds(options["p99"])
    policy = options["policy"] or (SHIPPED,)
    if len(policy) > 1:
        raise ConfigError("--plan takes one --policy at a time.")
    make = policy_maker(policy[0])
    (drawn,) = (_draw(each, options) for each in arrivals.values())
    tried = plan_workers(scenario, drawn, lambda: make(scenario), p99=p99)
    workers = tried[-1].workers
    if as_json:
        kept = [{"workers": t.workers, "latency": t.latency, **_plain(t.summary)} for t in tried]
        print_json({"workers": workers, "tried": kept})
        return
    rows = [plan_cells(each) for each in sorted(tried)]
    print_table(f"p99 of {options['p99']}", PLAN_COLUMNS, rows, numbers=frozenset(PLAN_COLUMNS))
    click.echo(f"{workers} {'worker keeps' if workers == 1 else 'workers keep'} {options['p99']}.")


def plan_cells(plan: Plan) -> tuple[str, ...]:
    """Return a row of the table of what was tried."""
    s = plan.summary
    p99 = "never" if math.isinf(plan.latency) else _ms(plan.latency)
    return (str(plan.workers), p99, _ms(s.mean), f"{s.utilisation:.0%}", f"{s.refused:.1%}")

"""Metrics of users' own, in one process: what they count, and what is refused."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tfrunner import metrics
from tfrunner.errors import ConfigError, StateError
from tfrunner.exposition import expose_told
from tfrunner.metric_series import MOST_SETS, Catalogue, Reporter
from tfrunner.protocol import Family

NUMBERS = itertools.count()
OURS = {"counter": metrics.Counter, "gauge": metrics.Gauge}
OURS |= {"histogram": metrics.Histogram, "summary": metrics.Summary}
THEIRS = {"counter": prometheus_client.Counter, "gauge": prometheus_client.Gauge}
THEIRS |= {"histogram": prometheus_client.Histogram, "summary": prometheus_client.Summary}


def fresh(kind: str = "metric") -> str:
    """Return a name that no other test has: metrics are declared once in a process."""
    return f"test_{kind}_{next(NUMBERS)}"


def samples(text: str, name: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples of a metric, as a Prometheus server reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == name
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def raises_twice(metric: Any) -> None:
    """Let two of three calls raise what is counted, one of them in a decorated function."""

    @metric.count_exceptions()
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(ValueError), metric.count_exceptions(ValueError):
        raise ValueError
    with pytest.raises(ValueError), metric.count_exceptions(KeyError):
        raise ValueError


def work_inside(metric: Any) -> None:
    """Leave a gauge as it was, after being counted in it."""
    metric.set(3)
    with metric.track_inprogress(), metric.track_inprogress():
        metric.inc(10)


ACTIONS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "a counter grows": ("counter", lambda m: (m.inc(), m.inc(2.5), m.inc(0))),
    "a counter that nobody used": ("counter", lambda m: None),
    "a counter of exceptions": ("counter", raises_twice),
    "a gauge rises and falls": ("gauge", lambda m: (m.set(7), m.inc(), m.dec(2.5), m.inc(-1))),
    "a gauge that nobody set": ("gauge", lambda m: None),
    "a gauge of what is going on": ("gauge", work_inside),
    "a gauge that asks": ("gauge", lambda m: m.set_function(lambda: 42)),
    "not a number": ("gauge", lambda m: m.set(float("nan"))),
    "a histogram": ("histogram", lambda m: [m.observe(n) for n in (0.005, 0.0051, 3, 10, 11)]),
    "a histogram without numbers": ("histogram", lambda m: None),
    "a summary": ("summary", lambda m: (m.observe(2), m.observe(0.5))),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("labels", [(), ("color", "size")], ids=["plain", "labelled"])
def test_a_metric_says_what_that_of_prometheus_client_says(action: str, labels: Any) -> None:
    """The same calls, the same samples; for labels given in order and by name."""
    kind, act = ACTIONS[action]
    name = fresh(kind)
    registry = prometheus_client.CollectorRegistry()
    theirs = THEIRS[kind](name, "Text.", labels, registry=registry)
    ours: Any = OURS[kind](name, "Text.", labels)
    for metric in (theirs, ours):
        if labels:
            act(metric.labels("red", 5))
            act(metric.labels(size="5", color="blue"))
        else:
            act(metric)
    expected = samples(prometheus_client.generate_latest(registry).decode(), name)
    found = samples(metrics.local_text(), name)
    if labels and "nobody set" in action:
        assert set(expected.values()) == {0.0} and found == {}  # only what was set counts
    else:
        assert str(found) == str(expected)  # NaN is equal to no number, itself included


@pytest.mark.parametrize("kind", ["gauge", "histogram", "summary"])
def test_time_measures_a_block_and_a_decorated_function(kind: str) -> None:
    """A count for each, and seconds that are not negative."""
    name = fresh(kind)
    metric: Any = OURS[kind](name, "Seconds.")
    with metric.time():
        pass

    @metric.time()
    def work() -> str:
        return "done"

    assert work() == "done"
    found = samples(metrics.local_text(), name)
    if kind != "gauge":
        assert found[f"{name}_count", ()] == 2
    assert all(value >= 0 for value in found.values())


def test_the_same_declaration_again_is_the_same_metric() -> None:
    """A module that is imported under two names counts in one place."""
    name = fresh()
    first = metrics.Counter(name, "Text.", ["a"])
    second = metrics.Counter(f"{name}_total", "Text.", ("a",))
    first.labels("x").inc()
    second.labels("x").inc()
    assert samples(metrics.local_text(), name) == {(f"{name}_total", (("a", "x"),)): 2.0}


def test_namespace_subsystem_and_unit_become_part_of_the_name() -> None:
    """As prometheus_client joins them."""
    name = fresh()
    metrics.Gauge(name, "Text.", namespace="shop", subsystem="till", unit="bytes").set(1)
    assert f"shop_till_{name}_bytes 1.0" in metrics.local_text()


def test_threads_lose_no_count() -> None:
    """Endpoints that are no coroutines run in threads."""
    name = fresh()
    counter = metrics.Counter(name, "Text.", ["thread"])

    def count(number: int) -> None:
        for _ in range(5000):
            counter.labels(number % 2).inc()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(8)))
    assert set(samples(metrics.local_text(), name).values()) == {20_000.0}


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "blank in the name": (lambda: metrics.Counter("my metric", "T."), "cannot name a metric"),
    "digit first": (lambda: metrics.Counter("1st", "T."), "cannot name a metric"),
    "the server's": (lambda: metrics.Gauge("tfrunner_rows", "T."), "server's own"),
    "no documentation": (lambda: metrics.Gauge("undocumented", ""), "no documentation"),
    "label": (lambda: metrics.Gauge("odd_label", "T.", ["a-b"]), "cannot name a label"),
    "label of Prometheus": (lambda: metrics.Gauge("own_label", "T.", ["__a"]), "cannot name"),
    "le": (lambda: metrics.Histogram("with_le", "T.", ["le"]), "Prometheus itself"),
    "label twice": (lambda: metrics.Gauge("twice", "T.", ["a", "a"]), "has a label twice"),
    "buckets that fall": (
        lambda: metrics.Histogram("falling", "T.", buckets=(2, 1)),
        "do not rise",
    ),
    "no buckets": (lambda: metrics.Histogram("bucketless", "T.", buckets=()), "no buckets"),
    "aggregation": (
        lambda: metrics.Gauge("odd_rule", "T.", aggregation="avg"),  # type: ignore[arg-type]
        "expected one of 'sum', 'max', 'min', 'last'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_declaration_that_cannot_be_is_refused(case: str) -> None:
    """When the module is imported: the server does not start, and says why."""
    declare, expected = REFUSED[case]
    with pytest.raises(ConfigError, match=expected):
        declare()


@pytest.mark.parametrize(
    "again",
    [
        lambda name: metrics.Counter(name, "Text.", ["b"]),
        lambda name: metrics.Gauge(name, "Text.", ["a"]),
        lambda name: metrics.Counter(name, "Other text.", ["a"]),
        lambda name: metrics.Gauge(f"{name}_total", "Has the name of the counter's sample."),
    ],
    ids=["labels", "kind", "text", "sample"],
)
def test_another_declaration_of_a_name_is_refused(again: Callable[[str], object]) -> None:
    """Both are shown."""
    name = fresh()
    metrics.Counter(name, "Text.", ["a"])
    with pytest.raises(ConfigError, match=name):
        again(name)


def test_a_gauge_can_say_when_something_happened_last() -> None:
    """Seconds since 1970, as Prometheus' own functions of time take them."""
    name = fresh("gauge")
    before = time.time()
    metrics.Gauge(name, "Text.").set_to_current_time()
    assert before <= samples(metrics.local_text(), name)[name, ()] <= time.time()


def test_wrong_use_says_what_to_do() -> None:
    """Not an InvalidInput: it is no fault of the caller's."""
    name = fresh()
    plain, labelled = metrics.Counter(name, "T."), metrics.Counter(fresh(), "T.", ["a", "b"])
    for wrong, expected in (
        (lambda: plain.inc(-1), "only grows"),
        (lambda: plain.inc(float("nan")), "only grows"),
        (lambda: plain.labels("x"), "no labels"),
        (lambda: labelled.inc(), "choose"),
        (lambda: labelled.labels("x"), "each once"),
        (lambda: labelled.labels("x", b="y"), "each once"),
        (lambda: labelled.labels(a="x", c="y"), "each once"),
    ):
        with pytest.raises(StateError, match=expected):
            wrong()
    assert samples(metrics.local_text(), name) == {(f"{name}_total", ()): 0.0}


def test_too_many_label_values_are_refused_once_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What there is counts on; the others are not counted, and nothing raises."""
    name = fresh()
    counter = metrics.Counter(name, "Text.", ["user"])
    with caplog.at_level(logging.ERROR):
        for user in range(MOST_SETS + 50):
            counter.labels(user).inc()
        counter.labels(0).inc()
    found = samples(metrics.local_text(), name)
    assert len(found) == MOST_SETS
    assert found[f"{name}_total", (("user", "0"),)] == 2
    (line,) = (each for each in caplog.messages if name in each)
    assert str(MOST_SETS) in line and "no ids" in line


def test_a_labels_value_can_be_sent_whatever_it_is() -> None:
    """Callers' texts may be long, and no text at all."""
    name = fresh()
    counter = metrics.Counter(name, "Text.", ["agent"])
    counter.labels('a\udcffb\n"').inc()
    counter.labels("x" * 10_000).inc()
    values = [labels[0][1] for _, labels in samples(metrics.local_text(), name)]
    assert values == ['a?b\n"', "x" * 200]


def test_a_function_that_fails_costs_its_own_metric_only(caplog: pytest.LogCaptureFixture) -> None:
    """The others are told."""
    name = fresh("gauge")
    metrics.Gauge(name, "Text.").set_function(lambda: [][0])
    metrics.Gauge(f"{name}_b", "Text.").set(1)
    text = metrics.local_text()
    assert f"{name}_b 1.0" in text
    assert any(name in line and "IndexError" in line for line in caplog.messages)


def test_the_dispatcher_is_told_everything_once_and_then_what_changes() -> None:
    """Anew for another life of the dispatcher, and for another socket."""
    catalogue = Catalogue()
    cell = catalogue.declare(Family("a", "counter", "A.")).cell(())
    catalogue.declare(Family("b", "gauge", "B."))
    reporter = Reporter(catalogue, "api-0-1")
    assert reporter.report("", b"socket") is None

    def told(epoch: str, socket: bytes) -> tuple[list[str], list[tuple[float, ...]]]:
        report = reporter.report(epoch, socket)
        if report is None:
            return [], []
        assert (report.process, report.epoch) == ("api-0-1", epoch)
        return [f.name for f in report.families], [r.numbers for r in report.readings]

    assert told("e1", b"s1") == (["a", "b"], [(0.0,)])
    assert told("e1", b"s1") == ([], [])
    cell.add((0, 2.0))
    assert told("e1", b"s1") == (["a"], [(2.0,)])
    assert told("e1", b"s2") == (["a", "b"], [(2.0,)])
    assert told("e2", b"s2") == (["a", "b"], [(2.0,)])
    catalogue.declare(Family("c", "counter", "C."))
    assert told("e2", b"s2")[0] == ["a", "b", "c"]
    assert b"c_total 0.0" in expose_told(catalogue.as_data())

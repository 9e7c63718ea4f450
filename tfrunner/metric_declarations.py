"""How a metric of a user's own may be declared, and how its labels may be given. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import get_args

from tfrunner.errors import ConfigError, StateError
from tfrunner.protocol import Family, Rule

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
OWN = "tfrunner_"
RULES = get_args(Rule)
RESERVED = {"histogram": "le", "summary": "quantile"}
"""Labels that Prometheus itself gives to the samples of a kind."""

LONGEST_VALUE = 200
"""Characters of a label's value; what is beyond is cut off."""

Values = tuple[str, ...]


def sample_names(family: Family) -> set[str]:
    """Return what the samples of a metric are called."""
    more = {"histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum")}
    endings = more.get(family.kind, ("_total",) if family.kind == "counter" else ())
    return {family.name, *(f"{family.name}{ending}" for ending in endings)}


def check(family: Family) -> None:
    """Refuse a declaration that Prometheus could not read.

    Raises:
        ConfigError: The name, a label or the buckets cannot be.
    """
    name = family.name
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a metric: expected letters, digits and underscores, such as "
            "'images_seen'."
        )
    if name.startswith(OWN):
        raise ConfigError(f"the metric {name!r} begins with {OWN!r}, as the server's own do.")
    if not family.text or not isinstance(family.text, str):
        raise ConfigError(f"the metric {name!r} has no documentation: say in a text what it is.")
    for label in family.labels:
        if not LABEL.fullmatch(label) or label.startswith("__"):
            raise ConfigError(f"the metric {name!r}: {label!r} cannot name a label.")
        if label == RESERVED.get(family.kind):
            raise ConfigError(
                f"the metric {name!r}: Prometheus itself gives each {family.kind} the label "
                f"{label!r}; name yours otherwise."
            )
    if len(set(family.labels)) < len(family.labels):
        raise ConfigError(f"the metric {name!r} has a label twice: {', '.join(family.labels)}.")
    if family.rule not in RULES:
        raise ConfigError(
            f"the gauge {name!r}: its aggregation is {family.rule!r}; expected one of "
            f"{', '.join(map(repr, RULES))}."
        )
    _check_buckets(name, family.bounds, is_histogram=family.kind == "histogram")


def _check_buckets(name: str, bounds: Sequence[float], *, is_histogram: bool) -> None:
    if is_histogram and not bounds:
        raise ConfigError(f"the histogram {name!r} has no buckets: give their upper bounds.")
    if any(low >= high for low, high in itertools.pairwise(bounds)):
        raise ConfigError(f"the histogram {name!r}: its buckets {list(bounds)} do not rise.")


def labels_of(family: Family, given: Sequence[object], named: dict[str, object]) -> Values:
    """Return the values of the labels, in their order, as text.

    Raises:
        StateError: There are too few, too many, or others.
    """
    if named and not given and set(named) == set(family.labels):
        return tuple(_text(named[name]) for name in family.labels)
    if not named and len(given) == len(family.labels):
        return tuple(map(_text, given))
    raise StateError(
        f"the metric {family.name!r} has the labels ({', '.join(family.labels)}); "
        f"labels() was given {[*given, *named]}: give each once, in order or by name."
    )


def _text(value: object) -> str:
    """Return a label's value as it can be sent, whatever it comes from."""
    return str(value)[:LONGEST_VALUE].encode(errors="replace").decode()


def shown(family: Family) -> str:
    """Return a declaration in a few words."""
    more = f" by {', '.join(family.labels)}" if family.labels else ""
    kind = f"{family.kind} ({family.rule})" if family.kind == "gauge" else family.kind
    buckets = f" with the buckets {list(family.bounds)}" if family.bounds else ""
    return f"{family.name!r}, {kind}{more}{buckets}: {family.text!r}"

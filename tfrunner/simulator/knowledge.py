"""What a server has learned of a model, as the cost of a simulated one: its learned file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tfrunner.dispatcher.costbook import CostBook
from tfrunner.errors import ConfigError
from tfrunner.learned_file import FORMAT, Kept
from tfrunner.simulator.models import Table


def read_learned(path: Path, method: str = "") -> Table:
    """Return the mean times that are kept in a learned file.

    Args:
        path: `$TFRUNNER_HOME/learned/<name>/<version>/<device class>.json`.
        method: Which method; "": the one for which most sizes are known.

    Raises:
        ConfigError: The file cannot be read, or holds nothing of that method.
    """
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
        if kept.format != FORMAT:
            raise ConfigError(f"{path} has format {kept.format}; this version reads {FORMAT}.")
        book = CostBook()
        book.recall(kept.device_class, kept.methods)
    except OSError as exc:
        raise ConfigError(f"the learned file {path} cannot be read: {exc.strerror}.") from exc
    except ValueError as exc:  # of msgspec too
        raise ConfigError(f"{path} is no learned file: {exc}.") from exc
    known = {name: book.table(name, kept.device_class).as_data() for name in kept.methods}
    points = known.get(method) if method else max(known.values(), key=len, default=None)
    if not points:
        raise ConfigError(f"{path} knows nothing of {method or 'any method'}; serve it first.")
    return Table(tuple(int(rows) for rows, *_ in points), tuple(mean for _, mean, *_ in points))


def find_learned(home: Path, tag: str) -> Path:
    """Return the newest learned file of a model version.

    Raises:
        ConfigError: There is none.
    """
    name, _, version = tag.partition(":")
    files = list((home / "learned" / name / version).glob("*.json")) if version else []
    if not files:
        raise ConfigError(
            f"nothing was learned of {tag or 'the model'} in {home}; "
            "say what a batch takes: --model table:1=2ms,8=5ms."
        )
    return max(files, key=lambda file: file.stat().st_mtime)

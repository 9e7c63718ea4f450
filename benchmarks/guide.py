"""What each piece of advice in the performance guide gives: the tables of docs/guide.md.

    python -m benchmarks.guide --page docs/guide.md
    python -m benchmarks.guide --parts xla precision       # only these, printed

Needs scikit-learn, whose handwritten digits the models learn, and wrk for what is served. What is
compared takes turns; times are medians, ratios the medians over the turns. About four minutes on
two cores; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

PARTS = ("functions", "batching", "xla", "precision", "quantization", "distillation", "conversion")


def main() -> None:
    """Measure; print each table, and put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--page", type=Path, help="the page whose tables are replaced")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each comparison")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["TFRUNNER_HOME"] = home
        from tfrunner_workers.devices import import_tensorflow

        import_tensorflow("cpu", options.threads)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # converters advise a lot
        for name, measure in find_parts().items():
            if name not in options.parts:
                continue
            text = measure(threads=options.threads, seconds=options.seconds)
            print(f"\n{name}\n\n{text}", flush=True)
            if options.page:
                options.page.write_text(replace(options.page.read_text(), name, text))


def find_parts() -> dict[str, Callable[..., str]]:
    """Return what measures each part; imports TensorFlow."""
    from benchmarks import guide_running, guide_smaller

    rooms = (guide_running, guide_smaller)
    return {
        name: next(getattr(room, name) for room in rooms if hasattr(room, name)) for name in PARTS
    }


def replace(page: str, part: str, text: str) -> str:
    """Return a page with another text between the marks of a part.

    Raises:
        ValueError: It does not have the marks.
    """
    begin, end = f"<!-- measured {part}: begin -->\n\n", f"\n\n<!-- measured {part}: end -->"
    changed, count = re.subn(
        re.escape(begin) + ".*?" + re.escape(end),
        lambda _: begin + text + end,
        page,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"the page has {count} places for {part!r}; expected {begin.strip()!r}")
    return changed


if __name__ == "__main__":
    main()

"""The answer of one request, and how it is put together from parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import msgspec
import numpy as np

from tfrunner.errors import ModelError, TFRunnerError
from tfrunner.padding import Short, cut_back
from tfrunner.specs import Node
from tfrunner.tensors import Array
from tfrunner.values import in_python


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The outputs of one request.

    Args:
        arrays: The tensors in the order of the structure; may be read-only views.
        structure: How the tensors are nested.
        timing: Seconds that it was queued, and that gathering its batch, the model, and cutting
            up the outputs took; () where it is not known.
        batch_rows: Rows of the batch that it was in; 0 where that is not known.
    """

    arrays: list[Array]
    structure: Node
    timing: tuple[float, ...] = ()
    batch_rows: int = 0

    def without(self, cuts: Sequence[Short]) -> Answer:
        """Return the answer without what belongs to filled-up inputs."""
        kept = cut_back(self.structure, self.arrays, cuts)
        return Answer(kept, self.structure, self.timing, self.batch_rows)

    def value(self) -> Any:
        """Return Python's form of the outputs: an array, or dicts, lists and tuples of them."""
        return in_python(self.structure, self.arrays)


Outcome = Union[Answer, TFRunnerError]


def join(parts: Sequence[Answer], axes: tuple[int | None, ...]) -> Outcome:
    """Put the rows of an oversize request together, in their order."""
    first = parts[0]
    dtypes = [array.dtype for array in first.arrays]
    if any(part.structure != first.structure for part in parts):
        return _unfit(parts, "they are nested or named differently")
    if any([array.dtype for array in part.arrays] != dtypes for part in parts):
        return _unfit(parts, "their dtypes differ")
    try:
        arrays = [
            np.concatenate([part.arrays[index] for part in parts], axis=axis or 0)
            for index, axis in enumerate(axes)
        ]
    except (ValueError, IndexError) as exc:
        return _unfit(parts, str(exc))
    return Answer(arrays, first.structure)


def _unfit(parts: Sequence[Answer], why: str) -> ModelError:
    return ModelError(
        f"the outputs of the {len(parts)} parts of this request do not fit together: {why}. A "
        "request with more rows than a batch may have is run in parts; the method must return "
        "the same form for all rows."
    )

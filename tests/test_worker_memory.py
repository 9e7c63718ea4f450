"""A worker's memory stays as it is, however many batches it answers."""

from __future__ import annotations

import gc
import random
import sys

import numpy as np

from tfrunner.protocol import Decoder, Part, PartsOf, RunBatch, ToWorker, encode
from tfrunner.tensors import Layout, Leaf, encode_layout
from tfrunner_workers.answering import answer, entries
from tfrunner_workers.echo import EchoModel
from tfrunner_workers.segments import Segments
from tfrunner_workers.warmup import declared


def test_batches_of_changing_sizes_leave_nothing_behind() -> None:
    """CPython keeps 2000 freed tuples of each small size; the answers must not fill its store."""
    model = EchoModel()
    table = entries(model, declared(model))
    layout = encode_layout(Layout((Leaf("float32", (None, 2)),)))
    decoder, body = Decoder(ToWorker), np.ones(2, np.float32).tobytes()
    sizes = random.Random(0)

    def run(batches: int) -> None:
        for number in range(batches):
            rows = sizes.randint(1, 19)
            parts = tuple([Part(number * 20 + at, 0, 1, 1, (body,)) for at in range(rows)])
            batch = RunBatch(number, 1, "__call__", layout, rows, (PartsOf(b"g", parts),))
            encode(answer(table, decoder.decode(encode(batch)), Segments()))

    gc.disable()  # a collection empties that store
    try:
        run(3000)  # tuples of one and two are made in many places: these two lists fill now
        before = sys.getallocatedblocks()
        run(4000)
        assert sys.getallocatedblocks() - before < 1000
    finally:
        gc.enable()

"""The shipped policy's decisions, one by one: a queue, a view, a choice."""

from __future__ import annotations

from math import inf

import pytest

from tfrunner import protocol as p
from tfrunner.dispatcher.batches import Accepted
from tfrunner.dispatcher.costs import CostTable
from tfrunner.dispatcher.drift import LIKELY_RUNS
from tfrunner.dispatcher.flows import Shares
from tfrunner.dispatcher.policy import Hold, View
from tfrunner.dispatcher.predictive import Predictive
from tfrunner.dispatcher.queues import Queue
from tfrunner.dispatcher.sizing import EXPLORE

NOW = 100.0


def table(costs: dict[int, float], *, transfer: float = 0.0) -> CostTable:
    """Return a table that knows these sizes well."""
    known = CostTable()
    for rows, seconds in costs.items():
        for _ in range(20):
            known.observe(rows, seconds)
    known.transfer = transfer
    return known


def affine(base: float, row: float, *, transfer: float = 0.0) -> CostTable:
    """Return a table of `base + row * rows`."""
    sizes = (1, 2, 4, 8, 16, 32, 64)
    return table({size: base + row * size for size in sizes}, transfer=transfer)


def queue_of(
    *rows: int, timeout: float = 60.0, arrived: float = NOW, shares: Shares | None = None
) -> Queue:
    """Return a queue in which such requests wait."""
    shares = shares or Shares()
    queue = Queue("__call__", bound=64, shares=shares)
    for number, each in enumerate(rows):
        accepted = Accepted(
            b"g", p.Request(number, "m:1", "__call__", b"L", each, timeout, "", (b"",)), arrived
        )
        accepted.account = shares.account("", 0)
        accepted.queue = queue
        accepted.cost = each * 0.001
        queue.add(accepted)
    return queue


def steady_queue(rows: int, *, rate: float, timeout: float) -> Queue:
    """Return a queue in which so many rows wait, and to which so many came per second before."""
    queue = queue_of(timeout=timeout)
    shares = Shares()
    for number in range(int(rate / 2)):
        request = p.Request(number, "m:1", "__call__", b"L", 1, timeout, "", (b"",))
        accepted = Accepted(b"g", request, NOW - 0.5 + number / rate)
        accepted.account, accepted.queue = shares.account("", 0), queue
        queue.add(accepted)
        queue.forget(accepted)
    for number in range(rows):
        request = p.Request(-1 - number, "m:1", "__call__", b"L", 1, timeout, "", (b"",))
        accepted = Accepted(b"g", request, NOW)
        accepted.account, accepted.queue = shares.account("", 0), queue
        queue.add(accepted)
    return queue


def view(costs: CostTable, **changes: object) -> View:
    """Return the view of an idle worker, the only one."""
    known = View(NOW, True, 64, 1, 1, NOW, costs)
    return known._replace(**changes)


def busy(costs: CostTable, left: float, **changes: object) -> View:
    """Return the view of a worker that will be done in so many seconds."""
    return view(costs, idle=False, idle_workers=0, ends=NOW + left, **changes)


AFFINE = affine(0.002, 0.0001)
CNN = table({1: 0.00052, 8: 8 / 3670, 16: 16 / 3126, 32: 32 / 2835, 64: 64 / 3803})


@pytest.mark.parametrize("waiting", [1, 2, 37, 64, 100])
def test_an_idle_worker_takes_all_that_waits(waiting: int):
    """Up to a full batch; larger batches are better for this model."""
    choice = Predictive().size(queue_of(*[1] * waiting), view(AFFINE))
    assert choice.rows == min(64, waiting)
    assert choice.reason == ("full" if waiting >= 64 else "idle")


def test_nothing_known_means_all_that_waits():
    """The first batches teach."""
    choice = Predictive().size(queue_of(*[1] * 20), view(CostTable(), idle_workers=4, workers=4))
    assert choice.rows == 20


@pytest.mark.parametrize(
    ("waiting", "rows"), [(4, 4), (8, 8), (9, 9), (20, 8), (40, 8), (63, 63), (64, 64), (200, 64)]
)
def test_the_size_with_the_most_rows_per_second_is_chosen(waiting: int, rows: int):
    """A small CNN does 3670 rows/s in batches of 8, 2835 in batches of 32, 3803 in those of 64."""
    assert Predictive().size(queue_of(*[1] * waiting), view(CNN, load=1.0)).rows == rows


@pytest.mark.parametrize(("load", "rows"), [(0.5, 8), (0.9, 8), (0.98, 64)])
def test_of_sizes_that_are_nearly_as_good_the_one_that_answers_sooner_is_chosen(
    load: float, rows: int
):
    """As long as the 4 % that it does less are not needed."""
    assert Predictive().size(queue_of(*[1] * 64), view(CNN, load=load)).rows == rows


def test_while_the_speed_changes_all_that_waits_is_sent():
    """Sizes that did not run since seem better than those that did."""
    costs = table({1: 0.00052, 8: 8 / 3670, 16: 16 / 3126, 32: 32 / 2835})
    assert Predictive().size(queue_of(*[1] * 20), view(costs)).rows == 8
    for _ in range(LIKELY_RUNS):
        costs.observe(32, 3 * 32 / 2835)
    assert Predictive().size(queue_of(*[1] * 20), view(costs)).rows == 20


def test_now_and_then_all_that_waits_is_sent_although_a_part_seems_better():
    """Or a size that was slow once would never be tried again."""
    policy, queue = Predictive(), queue_of(*[1] * 20)
    choices = [policy.size(queue, view(CNN)) for _ in range(EXPLORE)]
    assert [choice.rows for choice in choices].count(20) == 1
    assert choices[-1].reason == "explore"


def test_costly_new_sizes_are_kept_few():
    """Where a new size compiles for seconds, batches are powers of two."""
    costs = table({1: 0.001, 4: 0.002})
    costs.observe(16, 2.0, is_first=True)
    choice = Predictive().size(queue_of(*[1] * 13), view(costs))
    assert (choice.rows, choice.reason) == (8, "familiar")
    assert Predictive().size(queue_of(*[1] * 4), view(costs)).rows == 4


@pytest.mark.parametrize(
    ("costs", "rows"),
    [({1: 0.002, 4: 0.003, 8: 0.005}, 4), ({1: 0.002, 4: 0.003, 8: 0.0031}, 8)],
    ids=["a-half-is-faster", "a-half-takes-as-long"],
)
def test_a_burst_is_split_over_idle_workers_where_that_is_faster(
    costs: dict[int, float], rows: int
):
    """Eight rows, two idle workers."""
    choice = Predictive().size(queue_of(*[1] * 8), view(table(costs), idle_workers=2, workers=2))
    assert choice.rows == rows


def test_a_burst_is_not_split_when_the_workers_are_needed():
    """Smaller batches cost more device time."""
    loaded = view(affine(0.002, 0.001), idle_workers=2, workers=2, load=0.9)
    assert Predictive().size(queue_of(*[1] * 8), loaded).rows == 8
    assert Predictive().size(queue_of(*[1] * 8), loaded._replace(load=0.1)).rows == 4


# --- allowed sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "rows"), [(0.0021, 5), (0.008, 4)], ids=["padding-is-cheap", "padding-is-dear"]
)
def test_padding_only_when_it_is_cheaper_for_each_real_row(largest: float, rows: int):
    """Five rows, allowed are 1, 4 and 16: pad them to 16, or run 4 and then 1."""
    costs = table({1: 0.001, 4: 0.002, 16: largest})
    choice = Predictive().size(queue_of(*[1] * 5), view(costs, full=16, sizes=(1, 4, 16)))
    assert choice.rows == rows


# --- staging --------------------------------------------------------------------------------------


def test_a_full_batch_is_staged_at_once():
    """It cannot grow."""
    choice = Predictive().size(queue_of(*[1] * 70), busy(AFFINE, 1.0))
    assert (choice.rows, choice.reason) == (64, "full")


def test_a_batch_that_can_grow_stays_open_until_the_running_one_is_about_to_end():
    """It is sent so that it arrives then; until then the core is told when to ask again."""
    costs = affine(0.010, 0.0001, transfer=0.002)
    choice = Predictive().size(queue_of(1), busy(costs, 0.010))
    assert choice.rows == 0 and choice.reason == "open"
    assert NOW + 0.007 <= choice.again <= NOW + 0.008
    assert Predictive().size(queue_of(1), busy(costs, NOW + 0.010 - choice.again)).rows == 1


def test_nothing_is_staged_where_there_is_no_way_to_hide():
    """A batch that is there at once had better stay open until the worker is free."""
    assert Predictive().size(queue_of(1), busy(AFFINE, 0.0005)).rows == 0


def test_nothing_is_staged_behind_a_batch_of_which_nobody_knows_the_end():
    """Unless it is full."""
    assert Predictive().size(queue_of(1), busy(AFFINE, inf)).again == inf


def test_nothing_is_staged_behind_an_uncertain_end_if_there_are_other_workers():
    """One of them may be free before; what waits itself may be as uncertain as it likes."""
    costs = CostTable()
    for index in range(50):
        costs.observe(1, 0.001 if index % 2 else 0.020)
    costs.transfer = 0.001
    for workers, unsure, rows in ((2, 0.02, 0), (1, 0.02, 1), (2, 0.0, 1)):
        running = busy(costs, 0.0, workers=workers, unsure=unsure)
        assert Predictive().size(queue_of(1), running).rows == rows


def test_a_size_that_is_better_than_all_that_waits_is_staged_at_once():
    """It cannot grow: nothing is gained by waiting for the running batch's end."""
    choice = Predictive().size(queue_of(*[1] * 20), busy(CNN, 10.0, load=1.0))
    assert (choice.rows, choice.reason) == (8, "full")
    assert Predictive().size(queue_of(*[1] * 7), busy(CNN, 10.0, load=1.0)).rows == 0
    better = busy(table({1: 0.001, 8: 0.0022, 16: 0.0052, 64: 0.008}), 10.0)
    assert Predictive().size(queue_of(*[1] * 16), better).rows == 0  # 64 are better than 8


# --- deadlines ------------------------------------------------------------------------------------


def test_a_batch_is_made_smaller_for_its_earliest_deadline():
    """At low load: 64 rows would take 8.4 ms."""
    choice = Predictive().size(queue_of(*[1] * 64, timeout=0.005), view(AFFINE, load=0.1))
    assert choice.reason == "deadline"
    assert 20 <= choice.rows <= 30


def test_under_overload_late_requests_are_given_up_for_others():
    """Small batches for late ones would make all others late."""
    choice = Predictive().size(queue_of(*[1] * 200, timeout=0.003), view(AFFINE, load=2.0))
    assert choice.rows == 64
    assert choice.drop_before == pytest.approx(NOW + 0.0084)


def test_no_request_is_given_up_if_all_fit_into_one_batch():
    """A wrong prediction must not cost answers."""
    choice = Predictive().size(queue_of(*[1] * 64, timeout=0.001), view(AFFINE, load=2.0))
    assert choice == (64, inf, "full", 0.0)


def test_deadlines_of_staged_batches_are_reckoned_from_their_start():
    """They begin when the running one ends."""
    late = busy(AFFINE, 0.010, load=2.0)
    choice = Predictive().size(queue_of(*[1] * 200, timeout=0.012), late)
    assert choice.drop_before == pytest.approx(NOW + 0.010 + 0.0084)


# --- deferral -------------------------------------------------------------------------------------

RESNET = affine(0.001957, 0.000144)
TIGHT = {"workers": 4, "load": 0.7}


def test_an_idle_worker_waits_where_the_table_predicts_a_gain():
    """Four workers, 8 ms, high load: 13 rows fit twice into a deadline, 30 fit staggered."""
    queue = steady_queue(5, rate=16_000, timeout=0.008)
    choice = Predictive().size(queue, view(RESNET, **TIGHT))
    assert (choice.rows, choice.reason) == (0, "deferred")
    assert NOW < choice.again < NOW + 0.008 - RESNET.predict(6)


def test_it_waits_less_for_salvos():
    """The next one would be too much for the batch."""
    queue = steady_queue(5, rate=16_000, timeout=0.008)
    single, salvo = (
        Predictive().size(queue, view(RESNET, **TIGHT, together=together)).again
        for together in (1.0, 8.0)
    )
    assert salvo == pytest.approx(single - 7 * 0.000144, abs=1e-4)


def test_it_waits_no_longer_than_the_deadline_allows():
    """Nor for more rows than fit."""
    due = view(RESNET, **TIGHT)._replace(now=NOW + 0.005)
    assert Predictive().size(steady_queue(5, rate=16_000, timeout=0.008), due).rows == 5
    queue = steady_queue(40, rate=16_000, timeout=0.008)
    choice = Predictive().size(queue, view(RESNET, **TIGHT))
    assert 25 <= choice.rows <= 35


def test_a_batch_of_the_size_that_was_waited_for_is_in_time():
    """It is made smaller for who has waited already, if the workers keep up so."""
    due = view(RESNET, **TIGHT)._replace(now=NOW + 0.003)
    choice = Predictive().size(steady_queue(40, rate=16_000, timeout=0.008), due)
    assert RESNET.predict(choice.rows) <= 0.005 < RESNET.predict(choice.rows + 3)


@pytest.mark.parametrize(
    ("changes", "timeout"),
    [
        ({"workers": 1}, 0.008),
        ({"load": 0.2}, 0.008),
        ({}, 60.0),
        ({}, 0.050),
        ({"together": 20.0}, 0.008),
    ],
    ids=["one-worker", "low-load", "no-hurry", "loose-deadline", "large-salvos"],
)
def test_an_idle_worker_never_waits_elsewhere(changes: dict[str, float], timeout: float):
    """Deferral is off where it gains nothing."""
    queue = steady_queue(5, rate=16_000, timeout=timeout)
    assert Predictive().size(queue, view(RESNET, **{**TIGHT, **changes})).rows == 5


def test_nobody_waits_for_more_rows_than_come():
    """One of several batch keys gets a part of the load: its batches stay small."""
    queue = steady_queue(5, rate=3000, timeout=0.008)
    assert Predictive().size(queue, view(RESNET, **TIGHT)).rows == 5


# --- what a queue gives --------------------------------------------------------------------------


def test_late_requests_are_dropped_only_while_others_fill_the_batch():
    """Of ten that are late, two go: eight are wanted."""
    queue, dropped = queue_of(*[1] * 10, timeout=0.005), []

    def drop(accepted: Accepted) -> None:
        dropped.append(accepted)
        queue.forget(accepted)

    pieces = queue.take(8, NOW, drop, most=8, drop_before=NOW + 0.010, on_dropped=drop)
    assert len(pieces) == 8 and len(dropped) == 2
    assert queue.is_empty and queue.work == 0


def test_who_was_charged_too_little_pays_later():
    """Batches that took longer than predicted, while others waited."""
    shares = Shares()
    one, other = shares.account("one", 0), shares.account("other", 1)
    for account in (one, other):
        shares.enter(account)
        shares.charge(account, 1.0)
    assert (one.start, other.start) == (1.0, 0.5), "a step of priority halves what is paid"
    shares.settle(one, 1.0, 3.0)
    shares.settle(other, 1.0, 0.5)
    for account in (one, other):
        shares.charge(account, 1.0)
    assert (one.start, other.start) == (4.0, 0.75)


# --- order ----------------------------------------------------------------------------------------


def test_queues_without_work_are_left_out_and_the_older_goes_first():
    """For one client: by deadline, with aging."""
    shares = Shares()
    late = queue_of(1, arrived=NOW - 0.1, shares=shares)
    early = queue_of(1, arrived=NOW - 0.2, shares=shares)
    assert Predictive().order([late, queue_of(shares=shares), early], NOW) == [early, late]


def test_the_hold_waits_for_requests_and_then_lets_all_go():
    """For tests that need to know what is merged."""
    held = Hold(Predictive(), 3)
    assert held.size(queue_of(1, 1), view(AFFINE)).rows == 0
    assert held.size(queue_of(1, 1, 1), view(AFFINE)).rows == 3

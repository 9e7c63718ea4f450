"""How the whole dispatcher behaves with its policy, in virtual time: the stories B1 to B12.

B6 and B7 (mean latency and goodput against theory and other policies) are in the simulator's
tests; B12 (every request has one outcome, with its own rows) is in test_core_invariant.py.
"""

from __future__ import annotations

import random

import pytest

from tests.dispatch_world import Asked, TimedWorld, World, outputs
from tfrunner import protocol as p


def affine(base: float, row: float):
    """Return a cost of `base + row * rows` seconds."""
    return lambda rows: base + row * rows


CHEAP_ROWS = affine(0.010, 0.0001)


def flood(world: TimedWorld, requests: int, **options: object) -> list[Asked]:
    """Send so many requests at once, in one message each."""
    return [world.submit(**options) for _ in range(requests)]


def device_seconds(world: TimedWorld, asked: list[Asked]) -> float:
    """Return how many rows of these requests were answered, as a share of device time."""
    return float(sum(len(each.rows_back) for each in asked))


# --- batching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_b1_a_lone_request_leaves_at_once(is_warm: bool):
    """And is answered after the way there, its run and the way back."""
    world = TimedWorld(CHEAP_ROWS, transfer=0.002, is_warm=is_warm)
    for moment in range(1, 6):
        world.run(moment * 1.0)
        asked = world.submit()
        assert world.batches[-1] == (world.now, 1)
        world.run(moment + 0.5)
        assert world.latency(asked) == pytest.approx(CHEAP_ROWS(1) + 0.002)


@pytest.mark.parametrize("arrivals", [3, 16, 64])
def test_b2_arrivals_while_the_worker_is_busy_make_one_batch(arrivals: int):
    """At its completion, or just before: never two."""
    world = TimedWorld(CHEAP_ROWS, bound=64, transfer=0.001)
    world.submit()
    for index in range(arrivals):
        world.run(0.0001 * (index + 1))
        world.submit()
    world.run(1.0)
    assert [rows for _, rows in world.batches] == [1, arrivals]


@pytest.mark.parametrize(
    ("cost", "sizes"),
    [(affine(0.001, 0.001), [4, 4]), (affine(0.010, 0.00001), [8])],
    ids=["a-half-is-faster", "a-half-takes-as-long"],
)
def test_b3_a_burst_over_two_idle_workers_is_split_when_that_is_faster(cost, sizes: list[int]):
    """One message of eight requests."""
    world = TimedWorld(cost, workers=2)
    requests = tuple(
        p.Request(number, "m:1", "__call__", b"L", 1, 60.0, "", (b"g:%d" % number,))
        for number in range(1, 9)
    )
    for request in requests:
        world.asked[b"g", request.id] = Asked(b"g", request, 60.0)
    world.tell(b"g", p.Submit(requests))
    assert [rows for _, rows in world.batches] == sizes
    world.run(1.0)
    assert all(asked.is_answered for asked in world.asked.values())


def test_b4_mixed_shapes_do_not_block_each_other():
    """A, B, A, B ... x 16 are two batches, not sixteen."""
    world = TimedWorld(CHEAP_ROWS, bound=64)
    world.submit()
    for index in range(16):
        world.submit(layout=b"AB"[index % 2 : index % 2 + 1])
    world.run(1.0)
    assert [rows for _, rows in world.batches] == [1, 8, 8]


@pytest.mark.parametrize(
    ("largest", "sizes"), [(0.0021, [1, 5]), (0.009, [1, 4, 1])], ids=["cheap", "dear"]
)
def test_b5_allowed_sizes_are_padded_to_when_that_is_cheaper(largest: float, sizes: list[int]):
    """Five rows, allowed are 1, 4 and 16; what the worker adds is counted, and answers nobody."""
    costs = {1: 0.001, 4: 0.002, 16: largest}
    world = TimedWorld(costs.__getitem__, bound=64, sizes=(1, 4, 16))
    first = world.submit()
    five = flood(world, 5)
    world.run(1.0)
    assert [rows for _, rows in world.batches] == sizes
    assert all(len(asked.rows_back) == 1 for asked in (first, *five))
    assert world.model["padded_rows"] == (11 if len(sizes) == 2 else 0)


def test_a_batch_is_sent_in_time_to_arrive_as_the_running_one_ends():
    """How long the way is, is learned from the first batches."""
    world = TimedWorld(CHEAP_ROWS, transfer=0.002)
    for moment in range(1, 4):
        world.run(moment * 1.0)
        world.submit()
    world.run(3.001)
    world.submit()
    world.run(4.0)
    end = 3.0 + CHEAP_ROWS(1) + 0.002  # of the running one, as its answer comes
    sent, rows = world.batches[-1]
    assert rows == 1
    assert sent == pytest.approx(end - 0.002 * 1.25, abs=1e-5), "a quarter of the way too early"


@pytest.mark.parametrize(("rows", "free"), [(4, 1.0), (7, 0.75), (3, 0.5), (1, 0.0)])
def test_a_worker_that_splits_batches_is_sent_the_next_when_it_has_a_free_thread(rows, free):
    """Of seven rows in two threads, three end when three quarters of the longer part are over."""
    world = TimedWorld(affine(0.0, 0.002), parts=2)
    for moment in range(1, 4):
        world.run(moment * 1.0)
        world.submit(rows)
    world.run(3.0002)
    world.submit()
    world.run(4.0)
    longest = 0.002 * 2 * -(-rows // 2)
    sent, _ = world.batches[-1]
    assert sent == pytest.approx(max(3.0002, 3.0 + free * longest), abs=2e-4)


# --- learning -------------------------------------------------------------------------------------


def poisson(world: TimedWorld, *, rate: float, seconds: float, timeout: float) -> list[Asked]:
    """Send requests at random moments."""
    rng = random.Random(0)
    asked, moment, end = [], world.now, world.now + seconds
    while (moment := moment + rng.expovariate(rate)) < end:
        world.run(moment)
        asked.append(world.submit(timeout=timeout))
    world.run(end + timeout)
    return asked


def test_b8_after_a_drift_deadlines_are_kept_again():
    """The model takes twice as long from one moment on: the server finds out by itself."""
    world = TimedWorld(affine(0.004, 0.0005), bound=16)
    poisson(world, rate=400, seconds=2.0, timeout=0.060)
    world.cost = affine(0.008, 0.0010)
    batches = len(world.batches)
    poisson(world, rate=400, seconds=1.0, timeout=0.060)
    assert len(world.batches) - batches > 50
    later = poisson(world, rate=400, seconds=2.0, timeout=0.060)
    late = [asked for asked in later if not asked.is_answered]
    assert len(late) < 0.05 * len(later)


def test_b8_a_first_run_of_two_seconds_does_not_shrink_batches():
    """A compile is no measure of what batches cost."""
    world = TimedWorld(lambda rows: 2.0, bound=16, is_warm=False)
    world.submit()
    world.run(3.0)
    world.cost = affine(0.004, 0.0001)
    for _ in range(3):
        flood(world, 17, timeout=0.1)
        world.run(world.now + 1.0)
    sizes = [rows for _, rows in world.batches]
    assert sizes.count(16) == 3
    assert not world.refused


# --- order ----------------------------------------------------------------------------------------


def test_b9_a_flood_of_low_priority_delays_nobody_by_more_than_a_batch():
    """The running batch, the staged one, and then the urgent request's own."""
    world = TimedWorld(affine(0.002, 0.001), bound=8)
    flood(world, 2000, priority=-4)
    for moment in range(1, 20):
        world.run(0.1 * moment)
        urgent = world.submit(priority=4)
        world.run(0.1 * moment + 0.09)
        assert world.latency(urgent) <= 3 * 0.010 + 1e-9


def test_b9_low_priority_does_not_starve():
    """A flood of the highest priority is over-ruled for one request in a second."""
    world = TimedWorld(affine(0.002, 0.001), bound=8)
    flood(world, 4500, priority=8)
    low = flood(world, 5, priority=-8)
    world.run(5.5)
    assert sum(asked.is_answered for asked in low) >= 4
    assert world.model["queued_requests"] > 0


def test_b9_the_earliest_deadline_goes_first():
    """Among the requests of a client."""
    world = TimedWorld(affine(0.010, 0.0), bound=1)
    world.submit(timeout=10.0)
    world.submit(timeout=10.0)
    later, sooner = world.submit(timeout=1.5), world.submit(timeout=0.5)
    world.run(1.0)
    assert world.answers[sooner.request.id] < world.answers[later.request.id]


def test_b9_whoever_has_time_is_not_put_off_for_ever():
    """Aging: requests with tight deadlines do not always go first."""
    world = TimedWorld(affine(0.010, 0.0), bound=1)
    patient = world.submit(timeout=100.0)
    world.submit(timeout=100.0)
    third = world.submit(timeout=100.0)
    for moment in range(400):
        world.run(0.01 * moment)
        world.submit(timeout=0.5)
    assert patient.is_answered and third.is_answered


@pytest.mark.parametrize("keys", [(b"L", b"L"), (b"L", b"M")], ids=["one-key", "two-keys"])
def test_b10_two_clients_share_device_time(keys: tuple[bytes, bytes]):
    """One sends ten times as much; both always have work."""
    world = TimedWorld(affine(0.001, 0.001), bound=16)
    greedy: list[Asked] = []
    modest: list[Asked] = []
    for round_ in range(100):
        world.run(0.050 * round_)
        greedy += flood(world, 40, client="greedy", layout=keys[0])
        modest += flood(world, 30, client="modest", layout=keys[1])
    had = [device_seconds(world, asked) for asked in (greedy, modest)]
    assert had[0] == pytest.approx(had[1], rel=0.1)
    seconds = world.model["client_seconds"]
    assert seconds["greedy"] == pytest.approx(seconds["modest"], rel=0.1)


def test_b10_who_was_away_has_saved_up_nothing():
    """A client that comes late gets its half from then on, not all that it missed."""
    world = TimedWorld(affine(0.001, 0.001), bound=16)
    flood(world, 1, client="late")
    for round_ in range(60):
        world.run(0.050 * round_)
        flood(world, 45, client="early")
    before, late = world.model["client_seconds"]["early"], []
    for round_ in range(60, 100):
        world.run(0.050 * round_)
        flood(world, 45, client="early")
        late += flood(world, 45, client="late")
    seconds = world.model["client_seconds"]
    assert seconds["late"] == pytest.approx(seconds["early"] - before, rel=0.1)


def test_b10_shares_are_of_time_not_of_requests():
    """One client sends eight rows at a time, the other one row."""
    world = TimedWorld(affine(0.001, 0.001), bound=16)
    large: list[Asked] = []
    small: list[Asked] = []
    for round_ in range(100):
        world.run(0.050 * round_)
        large += [world.submit(8, client="large") for _ in range(10)]
        small += flood(world, 40, client="small")
    had = [device_seconds(world, asked) for asked in (large, small)]
    assert had[0] == pytest.approx(had[1], rel=0.1)


def test_b10_priorities_are_weights():
    """Two steps of priority are four times the share."""
    world = TimedWorld(affine(0.001, 0.001), bound=16)
    high: list[Asked] = []
    low: list[Asked] = []
    for round_ in range(100):
        world.run(0.050 * round_)
        high += flood(world, 45, client="high", priority=2)
        low += flood(world, 45, client="low")
    ratio = device_seconds(world, high) / device_seconds(world, low)
    assert ratio == pytest.approx(4.0, rel=0.15)


def test_b10_a_client_that_waits_for_little_is_not_refused_for_anothers_flood():
    """The predicted wait is that of its own share."""
    world = TimedWorld(affine(0.001, 0.001), bound=16)
    flood(world, 3000, client="greedy", timeout=2.0)
    assert world.refused
    modest = world.submit(client="modest", timeout=0.5)
    world.run(1.0)
    assert modest.is_answered and world.latency(modest) < 0.1


def test_b10_a_full_queue_has_room_for_whoever_has_less_in_it():
    """The flood that filled it gives way."""
    world = TimedWorld(affine(0.001, 0.001), bound=16, queue_requests=100)
    greedy = flood(world, 200, client="greedy")
    modest = flood(world, 10, client="modest")
    assert not [asked for asked in modest if asked.failure]
    world.run(1.0)
    assert all(asked.is_answered for asked in modest)
    assert all(asked.is_answered or asked.failure for asked in greedy)
    assert world.model["dropped"] == {"displaced": 10}


def test_b11_an_oversize_request_does_not_hold_up_other_clients():
    """1000 rows at a bound of 64 come back whole; others wait for few of its batches."""
    calm, mixed = (TimedWorld(affine(0.001, 0.0001), bound=64) for _ in range(2))
    big = mixed.submit(1000, client="big")
    latencies = []
    for world in (calm, mixed):
        asked = []
        for moment in range(1, 40):
            world.run(0.003 * moment)
            asked.append(world.submit(client="other"))
        world.run(1.0)
        latencies.append(max(world.latency(each) for each in asked))
    assert sorted(big.rows_back) == list(range(1000))
    assert latencies[0] < 0.0012
    assert latencies[1] <= 3 * 0.0074 + 1e-9, "one that runs, one that is staged, its own"


# --- overload -------------------------------------------------------------------------------------


def test_overload_is_refused_at_once_and_what_is_accepted_is_answered_in_time():
    """Three times what the worker can do: refusals are immediate, answers are in time."""
    world = TimedWorld(affine(0.002, 0.0005), bound=32)
    asked = poisson(world, rate=5000, seconds=2.0, timeout=0.100)
    answered = [each for each in asked if each.is_answered]
    refused = [each for each in asked if each.failure]
    assert len(answered) + len(refused) >= 0.98 * len(asked)
    assert all(world.latency(each) <= 0.100 for each in answered)
    capacity = 32 / (0.002 + 0.0005 * 32)
    assert len(answered) >= 0.9 * capacity * 2.0


def test_a_request_given_up_early_is_told_so():
    """Not left to its deadline; its reason is counted."""
    world = TimedWorld(affine(0.010, 0.0001), bound=8)
    flood(world, 8, timeout=10.0)
    tight = world.submit(timeout=0.029)
    flood(world, 30, timeout=10.0)
    world.cost = affine(0.050, 0.0001)
    world.run(1.0)
    assert tight.is_answered or tight.failure is not None or world.model["dropped"]


def test_a_wrong_prediction_costs_time_but_no_answer():
    """The workers claim 1000 s for a row, and are fast: everybody is answered."""
    world = TimedWorld(lambda rows: 1000.0, bound=8, workers=2)
    world.cost = affine(0.001, 0.0001)
    for moment in range(50):
        world.run(0.1 * moment)
        flood(world, 4, timeout=5.0)
    world.run(10.0)
    answered = [asked for asked in world.asked.values() if asked.is_answered]
    assert len(answered) + len(world.refused) == len(world.asked)
    assert len(answered) > 0.9 * len(world.asked)


def test_an_idle_worker_is_kept_from_work_for_a_second_at_most():
    """Whatever the policy believes."""
    from tfrunner.dispatcher.policy import Choice

    world = TimedWorld(CHEAP_ROWS)
    world.core._assignment._policy.size = lambda queue, view: Choice(0)  # type: ignore[method-assign]
    asked = world.submit()
    world.run(0.9)
    assert not world.batches
    world.run(1.1)
    assert asked.is_answered and world.model["reasons"] == {"cap": 1}


def test_a_batch_beside_others_costs_what_it_kept_the_worker_busy():
    """Callers and histograms are told how long it took; the table learns what it cost."""
    world = World()
    worker = next(iter(world.workers.values()))
    for _ in range(3):
        world.submit()
        world.now += 0.110
        message = worker.held.pop(0)
        done = p.BatchDone(message.batch, message.attempt, 0.100, outputs(message), 0.040)
        world.tell(worker.identity, done)
    costs = world.core._models["m:1"].book.table("__call__", "any")
    assert costs.predict(1) == pytest.approx(0.040)
    assert costs.transfer == pytest.approx(0.010)
    assert world.core._models["m:1"].ledger.run_seconds["__call__"].sum == pytest.approx(0.300)


# --- what is shown --------------------------------------------------------------------------------


def test_predictions_are_compared_with_what_came_true():
    """In the status, and so in the metrics."""
    world = TimedWorld(CHEAP_ROWS, bound=16)
    poisson(world, rate=200, seconds=1.0, timeout=10.0)
    model = world.model
    assert sum(model["prediction_ratio"]["counts"]) == model["batches"]
    assert model["error_seconds"] < 0.01 * model["predicted_seconds"]


def test_answers_say_how_long_they_waited_and_ran():
    """For Server-Timing: queue, gather, run and scatter, as far as they are known."""
    world = TimedWorld(CHEAP_ROWS)
    timings = []
    perform = world._perform

    def watch(send: object) -> None:
        message = send[2]
        if isinstance(message, p.Results):
            timings.extend(block.timing for block in message.blocks)
        perform(send)

    world._perform = watch  # type: ignore[method-assign]
    world.submit()
    world.run(0.004)
    world.submit()
    world.run(1.0)
    assert timings == [
        pytest.approx((0.0, 0.0, CHEAP_ROWS(1), 0.0)),
        pytest.approx((CHEAP_ROWS(1) - 0.004, 0.0, CHEAP_ROWS(1), 0.0)),
    ]


@pytest.mark.parametrize("sizes", [(), (1, 4)], ids=["any-size", "allowed-sizes"])
def test_requests_of_no_rows_are_answered_among_others(sizes: tuple[int, ...]):
    """Warm or cold, padded or not."""
    for is_warm in (True, False):
        world = TimedWorld(CHEAP_ROWS, is_warm=is_warm, sizes=sizes)
        asked = []
        for number in range(20):
            asked.append(world.submit(number % 3))
            world.run(world.now + 0.004)
        world.run(2.0)
        assert all(each.request.id in world.answers for each in asked)


def test_clients_beyond_the_first_ones_are_counted_together():
    """Callers choose names; the number of labels is bounded."""
    world = TimedWorld(CHEAP_ROWS)
    for number in range(100):
        world.submit(client=f"client-{number}")
        world.run(world.now + 0.1)
    assert len(world.model["client_seconds"]) == 33
    assert world.model["client_seconds"]["(others)"] > 0

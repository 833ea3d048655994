"""A circuit breaker opens at its failure rate, permits trials after its open time, and closes when they succeed."""

from __future__ import annotations

from typing import Any

import pytest
from manual_clock import Clock

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.models.breaker import BreakerSettings, CircuitBreaker, Permit

SETTINGS = BreakerSettings(
    window=4, failure_rate=0.5, minimum_calls=3, open_seconds=10, longest_open_seconds=40, trials=2
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(SETTINGS, clock)


def permit(breaker: CircuitBreaker) -> Permit:
    permit = breaker.permit()
    assert permit is not None
    return permit


def open_it(breaker: CircuitBreaker) -> None:
    assert [permit(breaker).failure() for _ in range(3)] == [False, False, True]


def test_it_opens_at_the_failure_rate_and_not_before_the_minimum_of_calls(breaker: CircuitBreaker) -> None:
    assert [permit(breaker).failure() for _ in range(2)] == [False, False]
    assert breaker.state == "closed"
    assert permit(breaker).failure()
    assert breaker.state == "open"
    assert breaker.permit() is None


def test_only_the_window_counts(breaker: CircuitBreaker) -> None:
    permit(breaker).failure()
    for _ in range(4):
        permit(breaker).success()
    assert not permit(breaker).failure()  # one of the last four: the first has left the window
    assert permit(breaker).failure()  # two of the last four


def test_cancelled_calls_do_not_count(breaker: CircuitBreaker) -> None:
    permit(breaker).failure()
    for _ in range(10):
        permit(breaker).cancel()
    assert not permit(breaker).failure()
    assert breaker.state == "closed"


def test_after_the_open_time_trials_are_permitted_and_their_success_closes_it(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    open_it(breaker)
    clock.now = 9.9
    assert breaker.permit() is None
    clock.now = 10.0
    first, second = permit(breaker), permit(breaker)
    assert first.trial
    assert breaker.permit() is None
    assert breaker.state == "half-open"
    second.cancel()  # another is permitted instead
    third = permit(breaker)
    assert not first.success()
    assert breaker.permit() is None  # of two trials, one succeeded and one is under way
    assert third.success()
    assert breaker.state == "closed"
    assert not permit(breaker).trial


def test_a_trial_that_fails_opens_it_for_twice_as_long_up_to_a_limit(breaker: CircuitBreaker, clock: Clock) -> None:
    open_it(breaker)
    for seconds in (10, 20, 40, 40):
        clock.now += seconds - 1
        assert breaker.permit() is None
        clock.now += 1
        assert permit(breaker).failure()
        assert breaker.state == "open"


@pytest.mark.parametrize(("closed_for", "open_for"), [(20, 20), (21, 10)])
def test_the_open_time_is_reset_after_a_longer_time_closed(
    closed_for: float, open_for: float, breaker: CircuitBreaker, clock: Clock
) -> None:
    open_it(breaker)
    clock.now += 10
    permit(breaker).success()
    permit(breaker).success()
    clock.now += closed_for
    open_it(breaker)
    clock.now += open_for - 1
    assert breaker.permit() is None
    clock.now += 1
    assert breaker.permit() is not None


def test_results_of_calls_from_before_a_change_are_ignored(breaker: CircuitBreaker, clock: Clock) -> None:
    late, other = permit(breaker), permit(breaker)
    open_it(breaker)
    assert not late.failure()
    clock.now += 10
    first = permit(breaker)
    assert not other.success()
    assert not first.success()
    assert breaker.state == "half-open"
    assert permit(breaker).success()


def test_a_single_serious_failure_opens_it_and_a_known_repair_ends_the_open_time(
    breaker: CircuitBreaker,
) -> None:
    assert permit(breaker).failure(opens=True)
    assert breaker.permit() is None
    breaker.end_open_time()
    assert permit(breaker).trial


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 0),
        ("window", None),
        ("minimum_calls", 21),
        ("failure_rate", 0.0),
        ("failure_rate", 1.1),
        ("open_seconds", 0),
        ("open_seconds", 2000),
        ("trials", 1.5),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(VocoderError, match=f"{name}: found"):
        BreakerSettings(**{name: value})

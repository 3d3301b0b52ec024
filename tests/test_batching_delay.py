"""How long the server waits for a fuller batch; times are given, no clock is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imadarem.serve.worker import BatchingDelay


def after(answered: int) -> BatchingDelay:
    """After a batch with the key "a" that took 8 seconds, from 0 to 8."""
    delay = BatchingDelay()
    delay.batch_ended("a", answered, 0.0, 8.0)
    return delay


def test_the_first_job_and_a_job_with_another_key_do_not_wait():
    assert BatchingDelay().seconds_to_wait("a", 0.0) == 0
    assert after(4).seconds_to_wait("b", 8.0) == 0


def test_a_single_client_never_waits():
    delay = after(1)
    delay.job_arrived(8.1)
    assert delay.seconds_to_wait("a", 8.1) == 0


def test_a_batch_waits_until_as_many_jobs_arrived_as_were_answered():
    delay = after(3)
    delay.job_arrived(8.1)
    delay.job_arrived(8.2)
    assert delay.seconds_to_wait("a", 8.2) > 0
    delay.job_arrived(8.3)
    assert delay.seconds_to_wait("a", 8.3) == 0


# A quarter of 8 seconds for the first job, an eighth for each further one, a half in all.
def test_a_batch_starts_when_no_more_jobs_arrive():
    delay = after(64)
    assert delay.seconds_to_wait("a", 8.5) == 1.5
    delay.job_arrived(9.75)
    assert delay.seconds_to_wait("a", 9.75) == 1.0
    assert delay.seconds_to_wait("a", 10.75) == 0


@given(st.lists(st.floats(0.0, 6.0)), st.floats(0.0, 6.0))
def test_no_batch_waits_longer_than_half_of_the_last_one(arrivals, passed):
    delay = after(64)
    for moment in sorted(arrivals):
        delay.job_arrived(8.0 + moment)
    assert passed + delay.seconds_to_wait("a", 8.0 + passed) <= max(4.0, passed) + 1e-9

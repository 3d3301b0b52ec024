"""How long the server waits for a fuller batch; the times are made up, no clock is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imadarem.serve.rhythm import Rhythm


def after(answered: int) -> Rhythm:
    """A batch of the key "a" that took 8 seconds, from 0 to 8."""
    rhythm = Rhythm()
    rhythm.ended("a", answered, 0.0, 8.0)
    return rhythm


def test_a_first_job_and_other_settings_wait_for_nobody():
    assert Rhythm().wait("a", 0.0) == 0
    assert after(4).wait("b", 8.0) == 0


def test_a_client_that_asks_alone_never_waits():
    rhythm = after(1)
    rhythm.came(8.1)
    assert rhythm.wait("a", 8.1) == 0


def test_a_batch_waits_until_as_many_came_as_were_answered():
    rhythm = after(3)
    rhythm.came(8.1)
    rhythm.came(8.2)
    assert rhythm.wait("a", 8.2) > 0
    rhythm.came(8.3)
    assert rhythm.wait("a", 8.3) == 0


# A quarter of 8 seconds until somebody comes, an eighth between two, a half in all.
def test_a_batch_waits_no_longer_where_they_stop_coming():
    rhythm = after(64)
    assert rhythm.wait("a", 8.5) == 1.5
    rhythm.came(9.75)
    assert rhythm.wait("a", 9.75) == 1.0
    assert rhythm.wait("a", 10.75) == 0


@given(st.lists(st.floats(0.0, 6.0)), st.floats(0.0, 6.0))
def test_no_batch_waits_longer_than_half_of_the_last_one(arrivals, passed):
    rhythm = after(64)
    for moment in sorted(arrivals):
        rhythm.came(8.0 + moment)
    assert passed + rhythm.wait("a", 8.0 + passed) <= max(4.0, passed) + 1e-9

"""Guards the pace of requests: more in a minute than were asked for, a wait that cannot be ended."""

import time

from llava_pl.endpoint.pace import Pace


def test_each_has_its_share_of_a_minute():
    pace, start = Pace(1200), time.monotonic()
    assert all(pace.wait() for _ in range(5))
    assert time.monotonic() - start >= 4 * 60 / 1200


def test_a_pace_that_is_stopped():
    pace = Pace(1)
    assert pace.wait()
    pace.stop()
    assert not pace.wait(60)
    assert pace.is_stopped

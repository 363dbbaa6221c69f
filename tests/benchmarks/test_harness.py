"""Risk: a ratio that is turned round or an order that favours one way, and nobody sees it in the table."""

import sys
from pathlib import Path

import harness
import pytest
from harness import Measured, Peer, compare, run_rounds

WAY = """
import os
from harness import Channel
channel = Channel()
print("a library that talks")
while request := channel.wait():
    channel.answer(request=request, threads=os.environ["OMP_NUM_THREADS"])
"""


def test_order_turns_round_and_warm_ups_do_not_count():
    order = []

    def way(name):
        def run():
            order.append(name)
            return Measured(wall=float(len(order)), cpu=0.0, peak_mib=0.0)

        return run

    found = run_rounds({name: way(name) for name in "abc"}, num_rounds=2, num_warm_ups=1)
    assert "".join(order) == "abccbaabc"
    assert {name: [m.wall for m in rounds] for name, rounds in found.items()} == {
        "a": [6, 7],
        "b": [5, 8],
        "c": [4, 9],
    }


def test_ratio_is_theirs_over_ours():
    ratio = compare([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 4 / 3, 4.0)


def test_rounds_are_drawn_in_pairs():
    """A moment in which the machine is slow for all says nothing about their ratio."""
    ratio = compare([1.0, 1.0, 10.0], [3.0, 3.0, 30.0])
    assert (ratio.value, ratio.low, ratio.high) == (3.0, 3.0, 3.0)


def test_a_process_answers_round_by_round(tmp_path):
    script = tmp_path / "way.py"
    script.write_text(WAY)
    peer = Peer([sys.executable, str(script)], 3, {"PYTHONPATH": str(Path(harness.__file__).parent)})
    assert peer.ask(do="check", rows=2) == {"request": {"do": "check", "rows": 2}, "threads": "3"}
    measured = peer.run_round()
    assert measured.answer["request"] == {"do": "round"}
    assert measured.wall > 0 <= measured.cpu
    assert measured.peak_mib > 1
    peer.close()
    assert peer.process.returncode == 0


def test_a_process_that_ended_is_named():
    peer = Peer([sys.executable, "-c", "raise SystemExit(3)"], 1)
    with pytest.raises(RuntimeError, match="ended with status 3"):
        peer.run_round()

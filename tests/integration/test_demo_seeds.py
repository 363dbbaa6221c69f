"""Guards: the demo works for one lucky seed only, or answers without looking.

Slow: about five minutes a seed on two quiet cores. The command is the one that users type.
"""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# Chance over the kinds (4, 2, 2 and 3 options); 500 questions have a standard error of 2.2 points.
BLIND = 39.6


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_demo_learns_to_see(tmp_path, seed):
    subprocess.run([sys.executable, "-m", "llava_pl", "demo", "--folder", tmp_path, "--seed", str(seed)], check=True)
    scores = json.loads((tmp_path / "accuracy.json").read_text())
    assert scores["finetuned, own image"]["all"] >= 90
    assert scores["finetuned, own image"]["all"] > scores["aligned, own image"]["all"]
    for image in ("other", "grey", "none"):
        assert abs(scores[f"finetuned, {image} image"]["all"] - BLIND) < 8

"""Risk: the micro batch of a benchmark is not what its definition says."""

import pytest
from step_work import NUM_IMAGE_TOKENS, make_samples, text_lengths


def test_lengths_are_quantiles_of_the_stages():
    assert text_lengths("finetune", 6) == [63, 108, 153, 210, 298, 507]
    assert text_lengths("align", 6) == [9, 11, 13, 16, 18, 24]


@pytest.mark.parametrize(("stage", "share"), [("finetune", 0.12), ("align", 0.025)])
def test_share_of_supervised_positions(stage, share):
    samples = make_samples(stage, 6, 32_000)
    num_positions = sum(len(sample["labels"]) + NUM_IMAGE_TOKENS - 1 for sample in samples)
    num_supervised = sum(int((sample["labels"] != -100).sum()) for sample in samples)
    assert num_supervised / num_positions == pytest.approx(share, rel=0.1)
    assert all(
        (sample["input_ids"] == -200).tolist() == [False, True] + [False] * (len(sample["input_ids"]) - 2)
        for sample in samples
    )

"""Guards: a store that costs more than it spares, or one that pays and is refused."""

import json

import pytest
from PIL import Image

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.training.feature_worth import FeatureWorth, measure_worth
from llava_pl.training.optim import OptimConfig
from llava_pl.types import InputError

# ScienceQA with LLaVA's first encoder and a decoder of 135 million weights, as far as orders go.
SCIENCEQA = FeatureWorth(
    num_pictures=6218, num_shown=12 * 6218, encoding_work=1.5e11, run_work=12 * 6218 * 4e11, row_bytes=524_288
)


def test_the_arithmetic():
    assert SCIENCEQA.share(0) == pytest.approx(0.375)
    assert SCIENCEQA.share(6218) == pytest.approx(0.375 * 11 / 12)
    SCIENCEQA.check(6218)
    assert SCIENCEQA.describe(6218) == (
        "6,218 pictures, 6,218 of them to be encoded first; 3.26 GB on disk; spares 68,398 of 74,616 encodings, 34.4% "
        "of the run's operations; reading takes 0.524 MB each"
    )


@pytest.mark.parametrize(
    ("change", "num_missing", "message"),
    [
        ({"num_pictures": 0}, 0, "^data.feature_cache: the run shows no picture; set data.feature_cache to none$"),
        (
            {"num_shown": 6218},
            6218,
            "^data.feature_cache: does not pay: this run shows pictures 6,218 times and the store lacks 6,218, which "
            "would all be encoded first; the store would be 3.26 GB; set data.feature_cache to none, or to always",
        ),
        (
            {"encoding_work": 4e9},
            0,
            "^data.feature_cache: does not pay: 74,616 of 74,616 encodings spared are 1.0% of the run's operations, "
            "expected at least 5%; the store would be 3.26 GB; set",
        ),
        # All 558,128 pictures of LLaVA-1.5's stage 1 at 336 pixels, as docs/training.md has them.
        (
            {"num_pictures": 558_128, "num_shown": 558_128, "row_bytes": 576 * 1024 * 2},
            558_128,
            "the store would be 658.39 GB",
        ),
    ],
)
def test_what_does_not_pay_is_refused_with_its_numbers(change, num_missing, message):
    plain = {name: getattr(SCIENCEQA, name) for name in SCIENCEQA.__slots__}
    with pytest.raises(InputError, match=message):
        FeatureWorth(**{**plain, **change}).check(num_missing)


def test_a_disk_takes_what_is_missing_or_the_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    SCIENCEQA.check_disk(1900, tmp_path)
    with pytest.raises(InputError, match=r"2,000 pictures x 0.524 MB need 1.05 GB on .*, found 1.00 GB free"):
        SCIENCEQA.check_disk(2000, tmp_path)


def measure(tiny_parts, tmp_path, records, **settings) -> FeatureWorth:
    (tmp_path / "records.json").write_text(json.dumps(records))
    data = LlavaDataModule(
        records=tmp_path / "records.json", image_folder=tmp_path, tokenizer=str(tiny_parts / "decoder"),
        image_processor=str(tiny_parts / "encoder"), num_image_tokens=4, batch_size=2, num_workers=0, template="mpt",
    )  # fmt: skip
    data.open_train_data()
    module = LlavaModule(
        stage="align",
        vision_encoder=VisionEncoderConfig(str(tiny_parts / "encoder")),
        decoder=DecoderConfig(str(tiny_parts / "decoder")),
        optim=OptimConfig(learning_rate=1e-3),
    )
    return measure_worth(module, data, num_micro_batches=2, **settings)


@pytest.mark.parametrize(("num_ranks", "num_steps", "num_epochs"), [(1, 24, 12), (1, 1, 0.5), (2, 24, 24)])
def test_a_run_is_measured_by_its_samples_and_steps(tiny_parts, tmp_path, num_ranks, num_steps, num_epochs):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    question = {"from": "human", "value": "<image>\nWhat?"}
    turns = [question, {"from": "gpt", "value": "red"}]
    records = [{"id": str(number), "image": "a.png", "conversations": turns} for number in range(8)]
    records[0] = {"id": "0", "conversations": [{"from": "human", "value": "What?"}, turns[1]]}
    worth = measure(tiny_parts, tmp_path, records, num_steps=num_steps, num_ranks=num_ranks)
    # Two layers of width 16 over five positions: 4 x 16 x 16 + 2 x 16 x 32 weights each, then attention, then patches.
    encoding = 2 * (5 * 2 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 16 * 25) + 4 * 2 * 3 * 8 * 8 * 16
    assert (worth.num_pictures, worth.num_shown, worth.row_bytes) == (1, round(7 * num_epochs), 4 * 16 * 4)
    assert worth.encoding_work == encoding
    assert worth.share(0) == pytest.approx(worth.num_shown * encoding / worth.run_work)


def test_a_run_without_records_is_left_to_who_says_so(tiny_parts, tmp_path):
    worth = measure(tiny_parts, tmp_path, [], num_steps=0, num_ranks=1)
    assert (worth.num_pictures, worth.num_shown, worth.run_work) == (0, 0, 0)
    with pytest.raises(InputError, match="the run shows no picture"):
        worth.check(0)


def test_a_store_may_cost_more_encodings_than_a_short_run_has():
    short = FeatureWorth(num_pictures=6218, num_shown=12, encoding_work=1.5e11, run_work=1e13, row_bytes=524_288)
    assert "; costs 6,206 encodings more than the 12 of this run; reading takes 0.524 MB each" in short.describe(6218)

"""Guards the place of a sample: a picture that cannot be read moves no other record there, and is told of."""

import warnings

import pytest
import torch
from PIL import Image

from llava_pl.data import dataset as dataset_module
from llava_pl.data.dataset import RecordDataset
from llava_pl.types import Record, RecordError, Turn

IGNORED = -100


@pytest.fixture
def red(encoder):
    """The colour of the one picture in the folder."""
    Image.new("RGB", (12, 8), (255, 0, 0)).save(encoder.image_folder / "red.png")
    return (255, 0, 0)


def record(image: str, name: str = "r", answer: str = "Hi") -> Record:
    return Record(name, (Turn("human", "<image>"), Turn("gpt", answer)), (image,))


def test_samples_are_in_the_order_of_the_records_and_know_it(encoder, red):
    dataset = RecordDataset([record("red.png", name=name) for name in "abc"], encoder)
    assert len(dataset) == 3
    assert [(dataset[index].id, dataset[index].index) for index in range(3)] == [("a", 0), ("b", 1), ("c", 2)]


def test_tokens_at_hand_are_not_made_again(encoder, red):
    tokenized = encoder.tokenize(record("red.png"))
    assert tokenized.input_ids.tolist() == [1, -200, 43, 76, 98]
    expected = RecordDataset([record("red.png")], encoder)[0]
    sample = RecordDataset([record("red.png", answer="")], encoder, tokens=[tokenized])[0]
    assert torch.equal(sample.input_ids, expected.input_ids)
    assert torch.equal(sample.labels, expected.labels)
    assert torch.equal(sample.pixel_values, expected.pixel_values)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that are waited, which pass at once."""
    seconds: list[float] = []
    monkeypatch.setattr(dataset_module.time, "sleep", seconds.append)
    return seconds


def test_picture_that_comes_back_is_learned_from(encoder, red, waits, monkeypatch):
    away = (encoder.image_folder / "red.png").rename(encoder.image_folder / "away.png")
    dataset = RecordDataset([record("red.png")], encoder, retry_after_seconds=(1, 2, 3))

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            away.rename(encoder.image_folder / "red.png")

    monkeypatch.setattr(dataset_module.time, "sleep", wait)
    sample = dataset[0]
    assert waits == [1, 2]
    assert sample.skipped is None
    assert torch.equal(sample.pixel_values[0], encoder.image_transform.prepare(Image.new("RGB", (12, 8), red)))


def test_picture_that_stays_away_stops_the_run_with_its_name(encoder, red, waits):
    dataset = RecordDataset([record("none.png", name="17")], encoder, retry_after_seconds=(1, 2))
    with pytest.raises(RecordError, match="record '17': cannot open picture") as caught:
        dataset[0]
    assert caught.value.reason == "picture_missing"
    assert waits == [1, 2]


def test_picture_that_stays_away_is_left_out_aloud_if_asked(encoder, red, waits):
    (encoder.image_folder / "torn.png").write_bytes((encoder.image_folder / "red.png").read_bytes()[:40])
    records = [record("red.png"), record("torn.png", name="17")]
    dataset = RecordDataset(records, encoder, retry_after_seconds=(1,), skips_broken=True)
    with pytest.warns(UserWarning, match="record '17': cannot read picture .*; the record is left out") as warned:
        sample = dataset[1]
    said = "".join(warnings.formatwarning(w.message, w.category, w.filename, w.lineno, w.line) for w in warned)
    assert said.startswith("llava-pl:0: UserWarning: record '17': cannot read picture ")
    assert said.count("\n") == 1  # no line of source code beneath
    assert (sample.id, sample.index, sample.skipped) == ("17", 1, "picture_broken")
    assert sample.labels.tolist() == [IGNORED]
    assert sample.pixel_values.shape == (0, 3, 16, 16)
    assert waits == [1]


@pytest.mark.parametrize("skips_broken", [True, False])
def test_a_picture_that_stays_away_is_named_as_a_quarantine_names_it(encoder, red, skips_broken):
    records = [record("red.png"), record("none.png", name="17")]
    dataset = RecordDataset(records, encoder, places=["talk 3", "talk 8"], skips_broken=skips_broken)
    message = "^talk 8: record '17': cannot open picture"
    with pytest.warns(UserWarning, match=message) if skips_broken else pytest.raises(RecordError, match=message):
        dataset[1]


def test_what_waiting_cannot_mend_is_not_tried_again(encoder, red, waits):
    dataset = RecordDataset([record("red.png", answer="")], encoder, retry_after_seconds=(1,), skips_broken=True)
    with pytest.raises(RecordError, match="answer is empty"):
        dataset[0]
    assert waits == []

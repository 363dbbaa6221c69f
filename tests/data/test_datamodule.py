"""Guards what a run reads: the same seed must give the same order on any machine, and every step its own divisor.

The order may depend on seed and epoch alone, not on the workers; a missing folder must be told before training, and
the blindness test's pictures must really differ.
"""

import json
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image

from llava_pl.data import conversation_datamodule
from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.datamodule import LlavaDataModule
from llava_pl.data.loader import StepLoader
from llava_pl.data.quarantine import write_quarantine
from llava_pl.data.question_source import QuestionSource
from llava_pl.data.train_loader import measure_samples
from llava_pl.types import IMAGE_TOKEN_INDEX, BadRecord, InputError, Question, RecordError

NUM_RECORDS = 11


def save_picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Eleven captions "a", "bb", "ccc", ... of one picture."""
    save_picture(tmp_path / "pictures" / "red.png", (255, 0, 0))
    entries = [
        {
            "id": index,
            "image": "red.png",
            "conversations": [
                {"from": "human", "value": "<image>"},
                {"from": "gpt", "value": chr(97 + index) * (index + 1)},
            ],
        }
        for index in range(NUM_RECORDS)
    ]
    (tmp_path / "records.json").write_text(json.dumps(entries))
    return tmp_path / "records.json"


def settings_of(tiny_parts: Path) -> dict:
    return {
        "tokenizer": str(tiny_parts / "decoder"),
        "image_processor": str(tiny_parts / "encoder"),
        "num_image_tokens": 4,
        "template": "plain",
        "batch_size": 2,
        "num_workers": 0,
    }


def name_llava(tiny_parts: Path, path: Path, **options) -> LlavaDataModule:
    """The data module before it reads anything."""
    options = {"records": path, "image_folder": path.parent / "pictures"} | options
    return LlavaDataModule(**(settings_of(tiny_parts) | options))


def make_llava(tiny_parts: Path, path: Path, **options) -> LlavaDataModule:
    data = name_llava(tiny_parts, path, **options)
    data.setup("fit")
    return data


def order_of(loader: StepLoader, epoch: int = 0) -> list[list[str]]:
    loader.sampler.set_epoch(epoch)
    return [batch["ids"] for batch in loader]


def drawn_order(seed: int, epoch: int) -> list[list[str]]:
    """What torch draws for the sum of seed and epoch, two at a time."""
    generator = torch.Generator().manual_seed(seed + epoch)
    names = [str(index) for index in torch.randperm(NUM_RECORDS, generator=generator).tolist()]
    return [names[start : start + 2] for start in range(0, NUM_RECORDS, 2)]


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_order_depends_on_seed_and_epoch_alone(tiny_parts, records, num_workers):
    torch.manual_seed(num_workers)
    loader = make_llava(tiny_parts, records, num_workers=num_workers, seed=3).train_dataloader()
    assert [order_of(loader, epoch) for epoch in (0, 1, 0)] == [drawn_order(3, epoch) for epoch in (0, 1, 0)]
    assert drawn_order(3, 0) != drawn_order(3, 1)


def test_workers_change_no_tensor(tiny_parts, records):
    alone, helped = (make_llava(tiny_parts, records, num_workers=count).train_dataloader() for count in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        for name in ("input_ids", "labels", "attention_mask", "pixel_values"):
            assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("batch_size", [1, 2, 4, 11, 16])
def test_count_of_train_batches_is_the_length_of_the_loader(tiny_parts, records, batch_size):
    data = make_llava(tiny_parts, records, batch_size=batch_size)
    loader = data.train_dataloader()
    assert data.count_train_batches(1) == len(loader) == -(-NUM_RECORDS // batch_size)
    assert sum(len(batch["ids"]) for batch in loader) == NUM_RECORDS


@pytest.mark.parametrize(("world_size", "num_batches"), [(1, 6), (2, 3), (3, 2), (4, 2), (6, 1), (11, 1), (12, 1)])
def test_count_of_train_batches_per_device(tiny_parts, records, world_size, num_batches):
    data = make_llava(tiny_parts, records)
    data.trainer = StandInTrainer(world_size, world_size - 1)
    assert data.count_train_batches(world_size) == len(data.train_dataloader()) == num_batches


class StandInTrainer:
    """What the data module asks of a trainer of several devices."""

    num_training_batches = 99

    def __init__(self, world_size: int, global_rank: int, accumulate_grad_batches: int = 1) -> None:
        self.accumulate_grad_batches = accumulate_grad_batches
        self.world_size = world_size
        self.global_rank = global_rank


def test_devices_share_the_records_of_an_epoch(tiny_parts, records):
    names = []
    for rank in range(2):
        data = make_llava(tiny_parts, records, seed=5)
        data.trainer = StandInTrainer(2, rank)
        names.append([name for batch in order_of(data.train_dataloader()) for name in batch])
    drawn = [name for batch in drawn_order(5, 0) for name in batch]
    # Eleven records on two devices: the last device repeats the first record, so that both take six.
    assert names == [drawn[::2], [*drawn[1::2], drawn[0]]]


@pytest.mark.parametrize("grouping", ["length", "balanced"])
def test_grouping_goes_by_the_tokens_of_the_samples(tiny_parts, records, grouping):
    data = make_llava(tiny_parts, records, grouping=grouping)
    # BOS, four image tokens, the caption's letters and a line break.
    assert measure_samples(data.train_data, grouping) == [1 + 4 + (index + 1) + 1 for index in range(NUM_RECORDS)]


def test_modality_length_goes_by_words(tiny_parts, records):
    data = make_llava(tiny_parts, records, grouping="modality_length")
    assert measure_samples(data.train_data, "modality_length") == [2] * NUM_RECORDS


def test_balanced_steps_hold_the_records_of_shuffled_ones(tiny_parts, records):
    ranks = []
    for rank in range(2):
        data = make_llava(tiny_parts, records, seed=5, grouping="balanced")
        data.trainer = StandInTrainer(2, rank, accumulate_grad_batches=2)
        ranks.append(order_of(data.train_dataloader()))
    drawn = [name for batch in drawn_order(5, 0) for name in batch]
    for at, names in ((0, drawn[:8]), (2, [*drawn[8:], drawn[0]])):
        assert sorted(name for rank in ranks for batch in rank[at : at + 2] for name in batch) == sorted(names)
    # The longest two and the next two; then the next two to the rank that is behind, and the shortest.
    longest = sorted(drawn[:8], key=int, reverse=True)
    assert ranks[0][:2] == [longest[:2], longest[6:]]
    assert ranks[1][:2] == [longest[2:4], longest[4:6]]


@pytest.mark.parametrize("grouping", ["length", "modality_length", "balanced"])
def test_grouped_epochs_can_be_resumed(tiny_parts, records, grouping):
    expected = order_of(make_llava(tiny_parts, records, grouping=grouping).train_dataloader(), epoch=1)
    assert sorted(name for names in expected for name in names) == sorted(str(index) for index in range(NUM_RECORDS))
    loader = make_llava(tiny_parts, records, grouping=grouping).train_dataloader()
    loader.load_state_dict({"num_done": 3})
    assert order_of(loader, epoch=1) == expected[3:]


def test_unknown_grouping(tiny_parts, records):
    found = error_of(lambda: make_llava(tiny_parts, records, grouping="size"))
    assert found == "data.grouping: expected one of none, length, modality_length, balanced, found 'size'"


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (2, 5), (3, 4), (4, 4)])
def test_devices_evaluate_every_record_once_in_equally_many_batches(tiny_parts, records, world_size, batch_size):
    ranks = []
    for rank in range(world_size):
        data = make_llava(tiny_parts, records, records=None, val_records=records, eval_batch_size=batch_size)
        data.trainer = StandInTrainer(world_size, rank)
        [loader] = data.val_dataloader()
        ranks.append([batch["ids"] for batch in loader])
    names = [name for rank in ranks for batch in rank for name in batch]
    assert sorted(names) == sorted(str(index) for index in range(NUM_RECORDS))
    assert len({len(rank) for rank in ranks}) == 1


class Recorder(LightningModule):
    """Notes the batches of a real run, and trains nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[tuple[list[str], int, int]] = []
        self.steps: list[int] = []

    def training_step(self, batch, batch_idx):
        self.batches.append((batch["ids"], batch["num_supervised"], batch["num_step_supervised"]))
        self.steps.append(self.global_step)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        """Nothing to validate."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: LlavaDataModule, tmp_path: Path, **options) -> Recorder:
    recorder = Recorder()
    quiet = {
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet, **options)
    trainer.fit(recorder, datamodule=data)
    return recorder


def step_sums(recorder: Recorder) -> list[int]:
    """For each micro batch, the supervised tokens of the micro batches that share its optimizer step."""
    return [
        sum(count for (_, count, _), other in zip(recorder.batches, recorder.steps, strict=True) if other == step)
        for step in recorder.steps
    ]


def test_a_run_draws_a_new_order_each_epoch(tiny_parts, records, tmp_path):
    recorder = fit(make_llava(tiny_parts, records, seed=4), tmp_path, max_epochs=2)
    assert [names for names, _, _ in recorder.batches] == drawn_order(4, 0) + drawn_order(4, 1)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_a_run_knows_the_supervised_tokens_of_each_step(tiny_parts, records, tmp_path, accumulation):
    """Six micro batches: with windows of four, the last one is incomplete."""
    data = make_llava(tiny_parts, records)
    recorder = fit(data, tmp_path, max_epochs=1, accumulate_grad_batches=accumulation)
    # Caption k has k + 1 letters and a line break.
    counts = [sum(int(name) + 2 for name in names) for names in drawn_order(0, 0)]
    assert [count for _, count, _ in recorder.batches] == counts
    windows = [sum(counts[start : start + accumulation]) for start in range(0, 6, accumulation)]
    expected = [windows[index // accumulation] for index in range(6)]
    assert [total for _, _, total in recorder.batches] == expected == step_sums(recorder)


def test_a_run_that_is_limited_counts_only_what_it_trains_on(tiny_parts, records, tmp_path):
    """Lightning steps after the third and last micro batch; the fourth, read ahead, is never trained on."""
    data = make_llava(tiny_parts, records)
    recorder = fit(data, tmp_path, max_epochs=1, accumulate_grad_batches=2, limit_train_batches=3)
    assert recorder.steps == [0, 0, 1]
    assert [total for _, _, total in recorder.batches] == step_sums(recorder)


def test_validation_records_are_right_padded_and_in_order(tiny_parts, records):
    data = make_llava(tiny_parts, records, records=None, val_records=records, eval_batch_size=3)
    [loader] = data.val_dataloader()
    batches = list(loader)
    assert [batch["ids"] for batch in batches] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6", "7", "8"],
        ["9", "10"],
    ]
    assert batches[0]["attention_mask"].tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert "num_step_supervised" not in batches[0]


def test_max_length_reaches_the_samples(tiny_parts, records):
    data = make_llava(tiny_parts, records, max_length=7)
    assert {batch["input_ids"].shape[1] for batch in data.train_dataloader()} == {7}


def leaving_out(data: ConversationDataModule, path: Path, *places: tuple[str, int, str]) -> dict:
    """The options of a run that leaves records of some data out, each given by source, index and reason."""
    bad = [BadRecord(index, str(index), reason, "why", source=source) for source, index, reason in places]
    write_quarantine(path, data.open_entries(), bad)
    return {"bad_records": "quarantine", "quarantine": path}


def spoil(path: Path, **changes: object) -> None:
    """Change records of the file: their new answers by place."""
    entries = json.loads(path.read_text())
    for index, answer in changes.items():
        entries[int(index.removeprefix("at_"))]["conversations"][1]["value"] = answer
    path.write_text(json.dumps(entries))


def test_quarantined_records_are_left_out_and_all_others_trained_on(tiny_parts, records, tmp_path, caplog):
    spoil(records, at_3=None, at_7="")
    quarantine = tmp_path / "bad.json"
    places = [("records", 3, "invalid"), ("records", 7, "empty_answer")]
    options = leaving_out(name_llava(tiny_parts, records), quarantine, *places)
    with caplog.at_level("INFO"):
        data = make_llava(tiny_parts, records, **options)
    assert (
        f"data.quarantine: {quarantine}: records: 2 of 11 records are left out, invalid 1, empty_answer 1"
        in caplog.text
    )
    names = [name for batch in data.train_dataloader() for name in batch["ids"]]
    assert sorted(names, key=int) == ["0", "1", "2", "4", "5", "6", "8", "9", "10"]
    assert data.count_train_batches(1) == 5


def test_a_bad_record_that_the_quarantine_does_not_name_stops_the_run(tiny_parts, records, tmp_path):
    spoil(records, at_3=None)
    options = leaving_out(name_llava(tiny_parts, records), tmp_path / "bad.json")
    assert "record 3 (id 3)" in error_of(lambda: make_llava(tiny_parts, records, **options))
    assert "record 3 (id 3)" in error_of(lambda: make_llava(tiny_parts, records))


def test_bad_validation_records_are_named_as_such(tiny_parts, records, tmp_path):
    spoil(records, at_3=None)
    found = error_of(lambda: make_llava(tiny_parts, records, records=None, val_records=records))
    assert found.startswith(f"data.val_records: {records}: record 3 (id 3): ")


def test_quarantined_validation_records_are_left_out(tiny_parts, records, tmp_path, caplog):
    """What is said of training names none of them, even where both read the same file."""
    spoil(records, at_3=None)
    quarantine = tmp_path / "bad.json"
    data = name_llava(tiny_parts, records, val_records=records)
    options = {"val_records": records} | leaving_out(data, quarantine, ("records", 3, "invalid"))
    assert "data.val_records: " in error_of(lambda: make_llava(tiny_parts, records, **options))
    leaving_out(data, quarantine, ("records", 3, "invalid"), ("data.val_records", 3, "invalid"))
    with caplog.at_level("INFO"):
        data = make_llava(tiny_parts, records, **options)
    [loader] = data.val_dataloader()
    assert [name for batch in loader for name in batch["ids"]] == ["0", "1", "2", "4", "5", "6", "7", "8", "9", "10"]
    assert f"{quarantine}: data.val_records: 1 of 11 records are left out, invalid 1" in caplog.text


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_validation_picture_that_breaks_is_left_out_and_named(tiny_parts, records, monkeypatch, world_size):
    monkeypatch.setattr(conversation_datamodule, "RETRY_AFTER_SECONDS", ())
    entries = json.loads(records.read_text())
    entries[4]["image"] = "damaged.png"
    (records.parent / "pictures" / "damaged.png").write_bytes(b"no picture")
    records.write_text(json.dumps(entries))
    options = {"records": None, "val_records": records}
    quarantine = leaving_out(name_llava(tiny_parts, records, **options), records.parent / "bad.json")
    loaders = []
    for rank in range(world_size):
        data = make_llava(tiny_parts, records, **options, **quarantine)
        data.trainer = StandInTrainer(world_size, rank)
        loaders += data.val_dataloader()
    with pytest.warns(
        UserWarning,
        match=r"^data\.val_records 4: record '4': cannot read picture .*damaged\.png.*; the record is left out",
    ):
        batches = [batch for loader in loaders for batch in loader]
    # Caption k has k + 1 letters and a line break; whichever rank has the fifth, the others are all there.
    assert sum(batch["num_supervised"] for batch in batches) == sum(place + 2 for place in range(11) if place != 4)
    assert [pair for batch in batches for pair in batch.get("skipped", [])] == [(4, "picture_broken")]
    data = make_llava(tiny_parts, records, **options)
    found = error_of(lambda: list(data.val_dataloader()[0]))
    assert found.startswith("data.val_records 4: record '4': cannot read picture")


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_data_that_was_not_checked_is_refused(tiny_parts, records, tmp_path, stage):
    options = leaving_out(name_llava(tiny_parts, records), tmp_path / "bad.json")
    data = name_llava(tiny_parts, records, val_records=records, **options)
    expected = "expected a source that was checked (records), found data.val_records; run"
    assert expected in error_of(lambda: data.setup(stage))
    make_llava(tiny_parts, records, **options)
    spoil(records, at_3="another answer")
    assert "this is not the data that was checked" in error_of(lambda: make_llava(tiny_parts, records, **options))


@pytest.mark.parametrize(("label", "stage"), [("records", "fit"), ("data.val_records", "fit"), (None, "validate")])
def test_a_quarantine_that_leaves_nothing_is_refused(tiny_parts, records, tmp_path, label, stage):
    label = label or "data.val_records"
    data = name_llava(tiny_parts, records, val_records=records)
    options = leaving_out(data, tmp_path / "bad.json", *[(label, place, "invalid") for place in range(NUM_RECORDS)])
    data = name_llava(tiny_parts, records, val_records=records, **options)
    assert f"{label}: all 11 records are left out (invalid 11); mend" in error_of(lambda: data.setup(stage))


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_validation_without_records_is_refused(tiny_parts, records, stage):
    (records.parent / "none.json").write_text("[]")
    data = name_llava(tiny_parts, records, val_records=records.parent / "none.json")
    assert error_of(lambda: data.setup(stage)) == (
        f"data.val_records: {records.parent / 'none.json'}: no records to validate with; give a file of some"
    )


def test_a_mixture_is_refused_before_it_is_read(tiny_parts, records, monkeypatch):
    monkeypatch.setattr("llava_pl.data.training_data.open_store", lambda *_: pytest.fail("the file was read"))
    found = error_of(lambda: make_llava(tiny_parts, records, records=[str(records)] * 2))
    assert found.startswith(f"data.records: expected names that differ, found records for {records} and {records}; ")


def test_no_name_is_no_file(tiny_parts, records):
    found = error_of(lambda: make_llava(tiny_parts, records, records=""))
    assert found == "data.records: expected a file, found an empty name; give a path, or null for none"


def test_every_record_can_be_asked_for(tiny_parts, records):
    spoil(records, at_3=None)
    options = settings_of(tiny_parts) | {"image_folder": records.parent}
    parsed = LlavaDataModule(records=records, val_records=records, **options).open_entries()
    places = {label: [e.index for e in entries if isinstance(e, BadRecord)] for label, entries in parsed.items()}
    assert places == {"records": [3], "data.val_records": [3]}
    assert LlavaDataModule(**options).open_entries() == {"records": ()}


@pytest.mark.parametrize(("options", "largest"), [({}, 34), ({"is_packed": True}, 30), ({"grouping": "balanced"}, 34)])
def test_micro_batches_beyond_the_token_budget_are_refused_before_they_are_read(tiny_parts, records, options, largest):
    """BOS, four image tokens, one to eleven letters and a line break: two rows have at most 34 positions."""
    data = make_llava(tiny_parts, records, token_budget=largest, **options)
    assert len(list(data.train_dataloader())) == 6
    data = make_llava(tiny_parts, records, token_budget=largest - 1, **options)
    assert f"expected at most {largest - 1} positions in a micro batch, found one of {largest} in epoch 0" in error_of(
        data.train_dataloader
    )


def test_samples_that_are_dropped_leave_order_and_number_of_batches_as_they_are(tiny_parts, records):
    """Captions of six letters and more, with a BOS, the picture and a line break, have more than eleven positions."""
    data = make_llava(tiny_parts, records, max_length=11, on_too_long="drop")
    batches = list(data.train_dataloader())
    assert [batch["ids"] for batch in batches] == drawn_order(0, 0)
    dropped = [name for name in range(NUM_RECORDS) if name + 1 > 5]
    for batch in batches:
        names = [int(name) for name in batch["ids"]]
        assert len(batch.get("skipped", [])) == sum(name in dropped for name in names)
        assert batch["num_supervised"] == sum(name + 2 for name in names if name not in dropped)
    assert sum(len(batch.get("skipped", [])) for batch in batches) == 6


def test_samples_that_are_dropped_count_as_one_token_in_a_grouping(tiny_parts, records):
    data = make_llava(tiny_parts, records, max_length=11, on_too_long="drop", grouping="length")
    assert measure_samples(data.train_data, "length") == [7, 8, 9, 10, 11, *[1] * 6]
    assert sorted(int(name) for batch in data.train_dataloader() for name in batch["ids"]) == list(range(NUM_RECORDS))


def test_longer_than_max_length_stops_the_run_if_asked(tiny_parts, records):
    found = error_of(lambda: make_llava(tiny_parts, records, max_length=15, on_too_long="error"))
    assert "record 9 (id '9'): max_length: expected at most 15 positions, found 16" in found
    assert "2 of 11 records cannot be learned from (too_long 2)" in found


def test_an_error_in_a_worker_keeps_its_class(tiny_parts, records, monkeypatch):
    monkeypatch.setattr(conversation_datamodule, "RETRY_AFTER_SECONDS", ())
    data = make_llava(tiny_parts, records, num_workers=1)
    (records.parent / "pictures" / "red.png").unlink()
    with pytest.raises(RecordError, match="cannot open picture"):
        list(data.train_dataloader())


def test_picture_that_is_gone_is_left_out_if_bad_records_are(tiny_parts, records, tmp_path, monkeypatch):
    monkeypatch.setattr(conversation_datamodule, "RETRY_AFTER_SECONDS", ())
    options = leaving_out(name_llava(tiny_parts, records), tmp_path / "bad.json")
    data = make_llava(tiny_parts, records, **options)
    (records.parent / "pictures" / "red.png").unlink()
    with pytest.warns(UserWarning, match="the record is left out"):
        batches = list(data.train_dataloader())
    assert [batch["ids"] for batch in batches] == drawn_order(0, 0)
    assert [pair for batch in batches for pair in batch["skipped"]] == [
        (int(name), "picture_missing") for names in drawn_order(0, 0) for name in names
    ]


def test_nothing_to_train_on(tiny_parts, records):
    data = make_llava(tiny_parts, records, records=None)
    assert error_of(data.train_dataloader) == "data: no records to train on; give the data module a training file"


def test_missing_image_folder(tiny_parts, records, tmp_path):
    expected = f"data.image_folder: {tmp_path / 'none'}: no such folder; check the path"
    assert error_of(lambda: make_llava(tiny_parts, records, image_folder=tmp_path / "none")) == expected


def test_missing_records_file(tiny_parts, records, tmp_path):
    path = tmp_path / "none.json"
    expected = f"{path}: cannot be read (No such file or directory); check the path"
    assert error_of(lambda: make_llava(tiny_parts, records, records=path)) == expected
    assert error_of(lambda: make_llava(tiny_parts, records, val_records=path)) == expected


def test_missing_tokenizer(tiny_parts, records, tmp_path):
    found = error_of(lambda: make_llava(tiny_parts, records, tokenizer=str(tmp_path / "none")))
    assert found.startswith(f"no tokenizer at {tmp_path / 'none'}: ")


@pytest.mark.parametrize("has_patch_token", [False, True])
def test_marks_that_the_tokenizer_lacks_are_tokens_of_their_own(tiny_parts, records, has_patch_token):
    """Spelled out in characters, they would be another prompt than the one that a checkpoint with marks knows."""
    data = make_llava(tiny_parts, records, template="mpt", image_start_end=True, image_patch_token=has_patch_token)
    start, end = (100, 101) if has_patch_token else (99, 100)
    assert len(data.tokenizer) == end + 1
    sample = next(data.make_encoder().encode_record(record) for record in data.train_records if record.images)
    ids = sample.input_ids.tolist()
    place = ids.index(start)
    assert ids[place : place + 6] == [start, *[IMAGE_TOKEN_INDEX] * 4, end]
    assert not {start, end} & set(sample.labels.tolist())


class Two(QuestionSource):
    name = "two"

    def questions(self):
        return [Question("1", "<image>\nWhich?", image="red.png"), Question("2", "What?")]


def test_tasks_are_asked_beside_the_records(tiny_parts, records):
    data = name_llava(
        tiny_parts, records, val_records=records, tasks=[Two()], template="vicuna_v1", image_sources=["own", "none"]
    )
    data.setup("validate")
    losses, own, none = data.val_dataloader()
    assert len(losses.dataset) == 11
    assert [batch["ids"] for batch in own] == [batch["ids"] for batch in none] == [["1", "2"]]
    assert (len(next(iter(own))["pixel_values"]), len(next(iter(none))["pixel_values"])) == (1, 0)
    assert [batch["ids"] for loader in data.test_dataloader() for batch in loader] == [["1", "2"]] * 2
    assert [batch["ids"] for loader in data.predict_dataloader() for batch in loader] == [["1", "2"]]


def test_tasks_alone(tiny_parts, records):
    data = name_llava(tiny_parts, records, records=None, tasks=[Two()], template="vicuna_v1")
    for stage in ("validate", "test", "predict"):
        data.setup(stage)
    assert len(data.val_dataloader()) == 1


def test_answered_questions_are_left_out(tiny_parts, records):
    data = name_llava(tiny_parts, records, tasks=[Two()], template="vicuna_v1")
    asked = []
    data.find_answered = lambda dataset: asked.append(dataset.source.name) or {0}
    assert [batch["ids"] for loader in data.test_dataloader() for batch in loader] == [["2"]]
    data.find_answered = lambda dataset: {0, 1}
    # Lightning ends no evaluation that has no batch.
    assert [batch["ids"] for loader in data.test_dataloader() for batch in loader] == [["1"]]
    assert asked == ["two"]


def test_two_tasks_of_one_name_are_refused(tiny_parts, records):
    with pytest.raises(InputError, match=r"data\.tasks: expected one of each name, found two twice"):
        name_llava(tiny_parts, records, tasks=[Two(), Two()]).setup("validate")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("test", "data.tasks: nothing to test or predict with; give tasks, or use ScienceQADataModule"),
        ("validate", "data.val_records: nothing to validate; give a file of records, or data.tasks"),
    ],
)
def test_nothing_to_ask(tiny_parts, records, stage, message):
    assert error_of(lambda: name_llava(tiny_parts, records).setup(stage)) == message

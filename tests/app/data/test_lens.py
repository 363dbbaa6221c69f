"""Guards: a view that shows another mask, other positions or other pixels than the model gets."""

import json

import pytest
from PIL import Image

from llava_pl.app.data.lens import View, look_at
from llava_pl.app.data.stretches import show_pixels
from llava_pl.app.load_data import load_data
from llava_pl.data.clip_pixels import look_up_pixels
from llava_pl.data.quarantine import write_quarantine
from llava_pl.types import BadRecord, InputError


def test_warnings():
    assert View("a", 0, "a", (), 0).warnings == ["nothing is supervised: this sample teaches nothing"]
    assert View("a", 0, "a", (), 0, skipped="too_long").warnings == ["left out of training: too_long"]
    assert View("a", 0, "a", (), 5).warnings == []


def test_the_view_is_the_batch_of_fit(zoo, monkeypatch):
    words = ["--config", str(zoo / "config.yaml"), "--data.template", "plain"]
    one = json.loads((zoo / "records.json").read_text())[:1]
    (zoo / "one.json").write_text(json.dumps(one))
    data = load_data([*words, "--data.records", str(zoo / "one.json")])
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    view = look_at(load_data(words), 0)
    tokens = [token for stretch in view.stretches for token in stretch.tokens]
    assert [token.id for token in tokens] == batch["input_ids"][0].tolist()
    assert [token.id if token.kind == "learn" else -100 for token in tokens] == batch["labels"][0].tolist()
    assert view.summary == "9 tokens, 4 supervised (44.4 %), 1 image"
    transform = data.make_encoder().image_transform
    pixels = look_up_pixels(batch)["pixel_values"][0]
    assert [p.tobytes() for p in view.pictures] == [show_pixels(pixels, transform).tobytes()]


def packed(zoo, **answers) -> list[str]:
    """The options of a run on packed rows, with a record for each of these answers."""
    Image.new("RGB", (16, 16), (0, 0, 255)).save(zoo / "images" / "good.png")
    entries = []
    for name, answer in answers.items():
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": answer}]
        entries.append({"id": name, "image": "good.png", "conversations": turns})
    (zoo / "packed.json").write_text(json.dumps(entries))
    words = ["--config", str(zoo / "config.yaml"), "--data.records", str(zoo / "packed.json")]
    return [*words, "--data.template", "plain", "--data.is_packed", "true", "--data.batch_size", "3"]


def test_a_packed_row_is_shown_whole_with_its_boundaries(zoo):
    data = load_data(packed(zoo, a="one", b="two", c="three"))
    view = look_at(data, 1)
    assert sorted(view.row) == ["a", "b", "c"]
    assert view.id == "b"
    assert view.summary.endswith("3 images, in a row of 3 samples")
    # Each sample is a BOS, four image tokens, then the answer and a line break: positions start again.
    lengths = {"a": 3, "b": 3, "c": 5}
    assert [(stretch.sample, stretch.kind, stretch.span) for stretch in view.stretches] == [
        part
        for sample, name in enumerate(view.row)
        for part in ((sample, "read", "0"), (sample, "image", "1-4"), (sample, "learn", f"5-{5 + lengths[name]}"))
    ]
    assert view.boundaries == {
        3 * sample: f"sample {sample + 1} of 3, id {name!r}: sees nothing of the others"
        for sample, name in enumerate(view.row)
    }


def leaving_out(zoo, words, *places) -> list[str]:
    """The further options of a run that leaves records out, each given by source, index and id."""
    bad = [BadRecord(index, name, "roles", "why", source=source) for source, index, name in places]
    write_quarantine(zoo / "bad.json", load_data(words).open_entries(), bad)
    return ["--data.bad_records", "quarantine", "--data.quarantine", str(zoo / "bad.json")]


def test_a_record_that_is_left_out_stands_in_no_row_and_says_so(zoo):
    words = packed(zoo, a="one", b="two")
    words += leaving_out(zoo, words, ("packed", 1, "b"))
    kept, left_out = (look_at(load_data(words), index) for index in range(2))
    assert (kept.row, kept.warnings) == (("a",), [])
    assert (left_out.row, left_out.warnings) == ((), ["left out by data.quarantine: roles"])
    assert left_out.summary == "9 tokens, 4 supervised (44.4 %), 1 image"


def test_a_record_that_no_epoch_holds_stands_in_no_row(zoo):
    words = packed(zoo, a="one", b="two")
    words[words.index("--data.records") + 1] = json.dumps([{"path": str(zoo / "packed.json"), "repeats": 0.5}])
    found = []
    for index in range(2):
        try:
            found += look_at(load_data(words), index).row
        except InputError as error:
            found.append(str(error))
    assert sum(line.endswith(" of packed is in no epoch (data.records' repeats), so in no row") for line in found) == 1


def test_records_of_every_source_can_be_looked_at(zoo):
    words = packed(zoo, a="one", b="two")
    words += ["--data.val_records", str(zoo / "packed.json")]
    words += leaving_out(zoo, words, ("data.val_records", 0, "a"))
    view = look_at(load_data(words), 0, "data.val_records")
    assert (view.source, view.id, view.row) == ("data.val_records", "a", ())
    assert view.warnings == ["left out by data.quarantine: roles"]
    assert look_at(load_data(words), 0).warnings == []
    with pytest.raises(InputError, match=r"--source: expected one of packed, data\.val_records, found 'val'"):
        look_at(load_data(words), 0, "val")


def test_tiles_are_shown_picture_by_picture(zoo):
    turns = [{"from": "human", "value": "<image><image> or <image>?"}, {"from": "gpt", "value": "b"}]
    Image.new("RGB", (32, 16), (0, 0, 255)).save(zoo / "images" / "wide.png")
    Image.new("RGB", (30, 30), (255, 0, 0)).save(zoo / "images" / "large.png")
    record = {"id": "3", "image": ["wide.png", "large.png", "wide.png"], "conversations": turns}
    (zoo / "three.json").write_text(json.dumps([record]))
    words = ["--config", str(zoo / "config.yaml"), "--data.records", str(zoo / "three.json")]
    view = look_at(load_data([*words, "--data.image_aspect", "anyres"]), 0)
    # 4 + 2 * (4 + 1) and 4 + 4 * (4 + 1) image tokens; the first two pictures touch.
    images = [stretch for stretch in view.stretches if stretch.kind == "image"]
    assert [len(stretch.tokens) for stretch in images] == [14, 24, 14]
    assert images[1].tokens[0].position == images[0].tokens[-1].position + 1
    assert view.picture_names == [
        f"picture {number}, tile {tile} of {num_tiles}"
        for number, num_tiles in ((1, 3), (2, 5), (3, 3))
        for tile in range(1, num_tiles + 1)
    ]
    colours = [picture.getpixel((8, 8)) for picture in view.pictures]
    assert colours == [(0, 0, 255)] * 3 + [(255, 0, 0)] * 5 + [(0, 0, 255)] * 3
    assert ", 3 images, 11 tiles" in view.summary


@pytest.mark.parametrize(
    ("policy", "summary", "warnings"),
    [
        ("truncate_text", "8 tokens, 3 supervised (37.5 %), 1 image, 1 cut off", []),
        ("drop", "1 tokens, 0 supervised (0.0 %), 0 images", ["left out of training: too_long"]),
    ],
)
def test_what_max_length_does_is_shown(zoo, policy, summary, warnings):
    words = ["--config", str(zoo / "config.yaml"), "--data.template", "plain", "--data.max_length", "8"]
    view = look_at(load_data([*words, "--data.on_too_long", policy]), 0)
    assert (view.summary, view.warnings) == (summary, warnings)


def test_the_order_of_training_samples_changes_no_view(zoo):
    words = ["--config", str(zoo / "config.yaml")]
    plain, grouped = (look_at(load_data([*words, "--data.grouping", name]), 0) for name in ("none", "balanced"))
    assert plain.stretches == grouped.stretches

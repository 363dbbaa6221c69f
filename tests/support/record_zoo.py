"""A zoo of records: of each kind of damage that files of users have, one."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image


def _exchange(question: str = "<image>\nWhat?", answer: str = "red") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


# A file name or none, a conversation, and the reason why it cannot be learned from (None: it can).
ZOO = {
    "good": ("good.png", _exchange(), None),
    "truncated_jpeg": ("truncated.jpg", _exchange(), "picture_broken"),
    "gif_named_jpg": ("gif.jpg", _exchange(), None),
    "missing": ("nowhere.png", _exchange(), "picture_missing"),
    "zero_bytes": ("empty.png", _exchange(), "picture_broken"),
    "cmyk": ("cmyk.jpg", _exchange(), None),
    "palette": ("palette.png", _exchange(), None),
    "sixteen_bit": ("deep.png", _exchange(), None),
    "exif_rotated": ("rotated.jpg", _exchange(), None),
    "one_pixel": ("dot.png", _exchange(), None),
    "very_long": ("line.png", _exchange(), "picture_broken"),
    "directory": ("folder", _exchange(), "picture_missing"),
    "bomb": ("bomb.png", _exchange(), "picture_broken"),
    "nul_in_name": ("a\0.png", _exchange(), "picture_missing"),
    "surrogate_in_name": ("\ud83d.png", _exchange(), "invalid"),
    "parent_folder": ("../outside.png", _exchange(), "path_outside"),
    "absolute": ("{outside}/outside.png", _exchange(), "path_outside"),
    "link_out": ("link.png", _exchange(), "path_outside"),
    "no_conversations": ("good.png", None, "invalid"),
    "empty_conversations": ("good.png", [], "invalid"),
    "system_turn": ("good.png", [{"from": "system", "value": "Hi"}, *_exchange()], "roles"),
    "two_questions": ("good.png", [_exchange()[0], *_exchange("And?")], "alternation"),
    "no_answer": ("good.png", _exchange(answer=""), "empty_answer"),
    "question_alone": ("good.png", _exchange()[:1], "nothing_supervised"),
    "lone_surrogate": (None, _exchange("a\ud83d"), "invalid"),
    "nul_in_text": (None, _exchange("a\0b"), None),
    "forty_images": (["good.png"] * 40, _exchange("<image>" * 40), "too_long"),
    "huge_turn": (None, _exchange("word " * 300_000), "too_long"),
    "mark_in_answer": ("good.png", _exchange("Which mark?", "It is <image>."), "image_slots"),
    "mark_missing": ("good.png", _exchange("What?"), "image_slots"),
    "literal_mark": (None, _exchange("What does <image> mean?"), None),
    "repeated": ("good.png", _exchange(), None),
}


@pytest.fixture
def zoo(tmp_path, tiny_model) -> Path:
    """A folder with `records.json`, a record for each kind in `ZOO`, the pictures in `images/`, and `config.yaml`."""
    images = tmp_path / "images"
    (images / "folder").mkdir(parents=True)
    picture = Image.new("RGB", (20, 12), (200, 40, 40))
    for name in ("images/good.png", "outside.png"):
        picture.save(tmp_path / name)
    Image.effect_noise((64, 64), 90).save(images / "whole.jpg")
    (images / "truncated.jpg").write_bytes((images / "whole.jpg").read_bytes()[:1000])
    picture.save(images / "gif.jpg", "GIF")
    (images / "empty.png").write_bytes(b"")
    picture.convert("CMYK").save(images / "cmyk.jpg")
    picture.convert("P").save(images / "palette.png", transparency=0)
    Image.new("I;16", (20, 12), 40000).save(images / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(images / "rotated.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(images / "dot.png")
    Image.new("RGB", (20000, 1)).save(images / "line.png")
    Image.new("1", (10_000, 9_000)).save(images / "bomb.png")
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    entries = []
    for name, (image, conversations, _) in ZOO.items():
        entry = {"id": "good" if name == "repeated" else name}
        if image is not None:
            entry["image"] = image.format(outside=tmp_path) if isinstance(image, str) else image
        if conversations is not None:
            entry["conversations"] = conversations
        entries.append(entry)
    (tmp_path / "records.json").write_text(json.dumps(entries))
    settings = {
        "model": tiny_model,
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {
                "records": str(tmp_path / "records.json"),
                "image_folder": str(images),
                "template": "mpt",
                "max_length": 300,
                "batch_size": 2,
                "num_workers": 0,
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.fixture
def zoo_reasons() -> dict[int, str]:
    """The reason of each bad record of the zoo, by its place."""
    return {index: reason for index, (_, _, reason) in enumerate(ZOO.values()) if reason is not None}

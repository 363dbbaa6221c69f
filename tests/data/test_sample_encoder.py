"""Guards the pairing of text and picture: a sample must hold the pictures that its text names, or say which cannot."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_pl.data.anyres import Tiling, default_pinpoints
from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.types import ImageGrid, InputError, Question, Record, RecordError, Sample, Turn

COLOURS = {"red.png": (255, 0, 0), "green.png": (0, 255, 0), "blue.png": (0, 0, 255)}
IGNORED = -100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        Image.new("RGB", (12, 8), colour).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def encoder(tiny_parts: Path, folder: Path) -> SampleEncoder:
    return make_encoder(tiny_parts, folder)


def make_encoder(tiny_parts: Path, folder: Path, **options) -> SampleEncoder:
    settings = {
        "tokenizer": load_tokenizer(tiny_parts / "decoder"),
        "image_transform": ImageTransform.from_pretrained(tiny_parts / "encoder", aspect="square"),
        "image_folder": folder,
        "num_image_tokens": 4,
        "template": "plain",
    }
    return SampleEncoder(**(settings | options))


def pixels_of(encoder: SampleEncoder, colour: tuple[int, int, int]) -> torch.Tensor:
    return encoder.image_transform.prepare(Image.new("RGB", (16, 16), colour))


def record(*images: str, name: str = "r", answer: str = "Hi") -> Record:
    return Record(name, (Turn("human", "<image>" * len(images)), Turn("gpt", answer)), images)


def question(name: str, image: str | None) -> Question:
    slot = "" if image is None else "<image>\n"
    return Question(name, f"{slot}Which?", ("yes", "no"), 0, image)


def text_of(encoder: SampleEncoder, sample: Sample) -> str:
    """The text of a sample behind its BOS, `@` for an image token."""
    assert sample.input_ids[0] == 1
    return "".join("@" if token < 0 else encoder.tokenizer.decode([token]) for token in sample.input_ids[1:].tolist())


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("options", [{}, {"max_length": 7}, {"num_image_tokens": 9}])
def test_counted_tokens_are_those_of_the_sample(tiny_parts, folder, options):
    encoder = make_encoder(tiny_parts, folder, **options)
    for each in (record("red.png"), record("red.png", "blue.png", answer="A longer one")):
        if options.get("max_length") and len(each.images) > 1:
            continue  # its second picture would be cut
        assert encoder.count_tokens(each) == len(encoder.encode_record(each).input_ids)
    assert encoder.count_tokens(record("missing.png")) == encoder.count_tokens(record("red.png"))


def test_counting_tokens_names_the_record(tiny_parts, folder):
    with pytest.raises(InputError, match=r"record 'bad': .*answer is empty"):
        make_encoder(tiny_parts, folder).count_tokens(record("red.png", name="bad", answer=""))


def test_record_becomes_a_sample(encoder):
    sample = encoder.encode_record(record("green.png", name="b", answer="No"))
    assert (sample.id, sample.index, sample.question) == ("b", None, None)
    assert sample.input_ids.tolist() == [1, -200, -200, -200, -200, 49, 82, 98]
    assert sample.labels.tolist() == [IGNORED] * 5 + [49, 82, 98]
    assert sample.pixel_values.shape == (1, 3, 16, 16)
    assert torch.equal(sample.pixel_values[0], pixels_of(encoder, (0, 255, 0)))


def test_pictures_are_in_the_order_of_the_slots(encoder):
    sample = encoder.encode_record(record("blue.png", "red.png"))
    assert int((sample.input_ids == -200).sum()) == 8
    assert torch.equal(sample.pixel_values[0], pixels_of(encoder, (0, 0, 255)))
    assert torch.equal(sample.pixel_values[1], pixels_of(encoder, (255, 0, 0)))


# Tiles of 16 pixels and 2 x 2 patches.
TILING = Tiling(16, 4, default_pinpoints(16))


def test_tiled_pictures_become_tiles_and_as_many_tokens(tiny_parts, tmp_path):
    Image.new("RGB", (32, 16), (255, 0, 0)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 20), (0, 0, 255)).save(tmp_path / "square.png")
    encoder = make_encoder(tiny_parts, tmp_path, tiling=TILING)
    sample = encoder.encode_record(record("wide.png", "square.png"))
    # 32 x 16 fills two tiles beside each other: 4 + 2 * (4 + 1); 20 x 20 is enlarged to four: 4 + 4 * (4 + 1).
    assert sample.grids == (ImageGrid(1, 2, height=2, width=4), ImageGrid(2, 2, height=4, width=4))
    assert sample.input_ids.tolist() == [1, *[-200] * 14, *[-200] * 24, 43, 76, 98]
    assert sample.labels.tolist() == [IGNORED] * 39 + [43, 76, 98]
    assert sample.pixel_values.shape == (3 + 5, 3, 16, 16)
    for tile, colour in zip(sample.pixel_values, [(255, 0, 0)] * 3 + [(0, 0, 255)] * 5, strict=True):
        assert torch.equal(tile, pixels_of(encoder, colour))


def test_tiled_text_only_record_and_question(tiny_parts, folder):
    encoder = make_encoder(tiny_parts, folder, tiling=TILING, template="mpt")
    sample = encoder.encode_record(Record("r", (Turn("human", "a"), Turn("gpt", "b"))))
    assert (sample.grids, sample.pixel_values.shape) == ((), (0, 3, 16, 16))
    asked = encoder.encode_question(question("q", "red.png"), encoder.load_picture("red.png"))
    # 12 x 8 in 16 x 32: of four rows 1.33 show the picture, and of three rows of padding one stays.
    assert asked.grids == (ImageGrid(2, 1, height=2, width=2),)
    assert int((asked.input_ids == -200).sum()) == 4 + 2 * 3


def test_tokens_of_tiled_pictures_are_counted_without_their_pixels(tiny_parts, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((40, 16), 80).convert("RGB")
    noise.save(tmp_path / "turned.jpg", exif=exif)
    noise.save(tmp_path / "wide.jpg")
    (tmp_path / "head.jpg").write_bytes((tmp_path / "wide.jpg").read_bytes()[:700])
    for respect_exif, num_turned in ((True, 4 + 6 * (2 + 1)), (False, 4 + 2 * (6 + 1))):
        encoder = make_encoder(
            tiny_parts, tmp_path, tiling=TILING, respect_exif=respect_exif, template="mpt", max_length=300
        )
        text = Record("r", (Turn("human", "a"), Turn("gpt", "b")))
        each = [text, record("wide.jpg"), record("turned.jpg"), record("wide.jpg", "turned.jpg", "wide.jpg")]
        counts = [encoder.count_tokens(one) for one in each]
        samples = [encoder.encode_record(one) for one in each]
        assert counts == [len(sample.input_ids) for sample in samples]
        assert int((samples[2].input_ids == -200).sum()) == num_turned
        assert encoder.count_tokens(record("head.jpg")) == encoder.count_tokens(record("wide.jpg"))


@pytest.mark.parametrize(("size", "is_refused"), [((20000, 1), True), ((1, 20000), True), ((1, 1), False)])
def test_tiled_pictures_of_odd_shapes(tiny_parts, tmp_path, size, is_refused):
    Image.new("RGB", size).save(tmp_path / "odd.png")
    encoder = make_encoder(tiny_parts, tmp_path, tiling=TILING)
    if not is_refused:
        assert encoder.count_tokens(record("odd.png")) == len(encoder.encode_record(record("odd.png")).input_ids)
        return
    for action in (encoder.count_tokens, encoder.encode_record):
        found = error_of(lambda action=action: action(record("odd.png", name="17")))
        assert found.startswith(f"record '17': picture of {size[0]} x {size[1]} pixels: too elongated ")


def test_counting_tokens_of_a_tiled_picture_that_is_missing_or_outside(tiny_parts, folder):
    encoder = make_encoder(tiny_parts, folder, tiling=TILING)
    assert error_of(lambda: encoder.count_tokens(record("none.png", name="17"))).startswith(
        f"record '17': cannot open picture {folder / 'none.png'}: "
    )
    with pytest.raises(RecordError) as caught:
        encoder.count_tokens(record("../red.png"))
    assert caught.value.reason == "path_outside"


def test_text_only_record_has_no_picture_and_reads_the_mark_as_text(tiny_parts, folder):
    encoder = make_encoder(tiny_parts, folder, template="mpt", image_start_end=True)
    sample = encoder.encode_record(Record("r", (Turn("human", "a <image>"), Turn("gpt", "b"))))
    assert sample.pixel_values.shape == (0, 3, 16, 16)
    assert sample.pixel_values.dtype == torch.uint8
    assert text_of(encoder, sample).endswith("user\na <image><|im_end|><|im_start|>assistant\nb<|im_end|>")


def test_training_sample_is_cut_and_a_prompt_is_not(tiny_parts, folder):
    encoder = make_encoder(tiny_parts, folder, max_length=6)
    assert encoder.encode_record(record("red.png")).input_ids.tolist() == [1, -200, -200, -200, -200, 43]
    encoder = make_encoder(tiny_parts, folder, max_length=6, template="mpt")
    sample = encoder.encode_question(question("q", None), None)
    assert text_of(encoder, sample).endswith("<|im_start|>user\nWhich?<|im_end|><|im_start|>assistant\n")


def test_record_with_a_missing_picture_is_named(encoder, folder):
    found = error_of(lambda: encoder.encode_record(record("red.png", "none.png", name="17")))
    assert found.startswith(f"record '17': cannot open picture {folder / 'none.png'}: ")


def test_record_that_cannot_be_encoded_is_named(tiny_parts, folder):
    encoder = make_encoder(tiny_parts, folder, max_length=4)
    assert error_of(lambda: encoder.encode_record(record("red.png", name="17"))) == (
        "record '17': max_length: 4 positions end inside or before an image (1 image tokens would be lost); "
        "expected at least 5"
    )
    assert error_of(lambda: encoder.encode_record(record("red.png", name="18", answer=""))) == (
        "record '18': turn 1: the answer is empty; nothing can be learned from it, remove the record"
    )


@pytest.mark.parametrize(("respect_exif", "top"), [(True, (0, 0, 255)), (False, (255, 0, 0))])
def test_photograph_is_turned_upright_if_asked(tiny_parts, tmp_path, respect_exif, top):
    picture = Image.new("RGB", (16, 16), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 8, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "photo.png", exif=exif)
    encoder = make_encoder(tiny_parts, tmp_path, respect_exif=respect_exif)
    assert encoder.load_picture("photo.png").getpixel((0, 0)) == top


@pytest.mark.parametrize(
    "name", ["../outside.png", "{outside}", "link.png", "linked/outside.png", "sub/../../outside.png"]
)
def test_picture_outside_the_folder_is_refused(tiny_parts, tmp_path, name):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "outside.png"
    Image.new("RGB", (4, 4)).save(outside)
    (folder / "link.png").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    encoder = make_encoder(tiny_parts, folder)
    with pytest.raises(RecordError) as caught:
        encoder.encode_record(record(name.format(outside=outside), name="17"))
    assert caught.value.reason == "path_outside"
    assert str(caught.value).startswith("record '17': picture ")
    assert f"expected a file inside the image folder {folder}, found {outside}; " in str(caught.value)


def test_picture_inside_the_folder_is_read_however_it_is_reached(tiny_parts, tmp_path):
    real = tmp_path / "real"
    (real / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(real / "a.png")
    (real / "link.png").symlink_to(real / "a.png")
    (tmp_path / "images").symlink_to(real)
    encoder = make_encoder(tiny_parts, tmp_path / "images")
    for name in ("a.png", "sub/../a.png", "link.png", str(real / "a.png")):
        assert encoder.load_picture(name).size == (4, 4)


def test_names_that_no_file_can_have(tiny_parts, tmp_path):
    (tmp_path / "circle.png").symlink_to("circle.png")
    for name in ("a\0.png", "\ud83d.png", "circle.png", "x" * 5000):
        with pytest.raises(RecordError, match="cannot open picture") as caught:
            make_encoder(tiny_parts, tmp_path).load_picture(name)
        assert caught.value.reason == "picture_missing"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("none.png"), "picture_missing"),
        (record("red.png", answer=""), "empty_answer"),
        (record("red.png", answer="abcdefg"), "too_long"),
        (Record("r", (Turn("human", "a"), Turn("human", "b"))), "alternation"),
        (Record("r", (Turn("human", "no slot"), Turn("gpt", "b"))), "invalid"),
    ],
)
def test_reason_of_a_record_that_cannot_be_encoded(tiny_parts, folder, bad, reason):
    with pytest.raises(RecordError) as caught:
        make_encoder(tiny_parts, folder, max_length=10, on_too_long="error").encode_record(bad)
    assert caught.value.reason == reason


def test_a_sample_that_is_dropped_keeps_its_place_and_teaches_nothing(tiny_parts, folder):
    encoder = make_encoder(tiny_parts, folder, max_length=10, on_too_long="drop")
    dropped = encoder.encode_record(record("red.png", name="b", answer="abcdef"))
    assert (dropped.id, dropped.skipped) == ("b", "too_long")
    assert (dropped.input_ids.tolist(), dropped.labels.tolist()) == ([0], [IGNORED])
    assert dropped.pixel_values.shape == (0, 3, 16, 16)
    assert encoder.encode_record(record("red.png")).skipped is None


def test_what_fits_is_never_dropped_or_cut(tiny_parts, folder):
    for policy in ("truncate_text", "drop", "error"):
        encoder = make_encoder(tiny_parts, folder, max_length=8, on_too_long=policy)
        sample = encoder.encode_record(record("red.png"))
        assert (len(sample.input_ids), sample.num_cut, sample.skipped) == (8, 0, None)


def test_no_setting_cuts_inside_an_image(tiny_parts, folder):
    bad = record("red.png", "red.png")
    for policy in ("truncate_text", "error"):
        with pytest.raises(RecordError) as caught:
            make_encoder(tiny_parts, folder, max_length=7, on_too_long=policy).encode_record(bad)
        assert caught.value.reason == "too_long"
    assert make_encoder(tiny_parts, folder, max_length=7, on_too_long="drop").encode_record(bad).skipped == "too_long"


def test_only_length_is_dropped(tiny_parts, folder):
    with pytest.raises(RecordError, match="cannot open picture"):
        make_encoder(tiny_parts, folder, max_length=8, on_too_long="drop").encode_record(record("none.png"))
    # No picture is opened for a sample that is dropped.
    dropped = make_encoder(tiny_parts, folder, max_length=7, on_too_long="drop").encode_record(record("none.png"))
    assert dropped.skipped == "too_long"


def test_cut_tokens_are_counted(tiny_parts, folder):
    assert make_encoder(tiny_parts, folder, max_length=6).encode_record(record("red.png")).num_cut == 2

"""Guards the blindness test: "other" and "grey" must show another picture in the same words, "none" no slot."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.question_dataset import QuestionDataset
from llava_pl.data.question_source import GivenQuestions
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.types import InputError, Question, Sample

COLOURS = {"red.png": (255, 0, 0), "green.png": (0, 255, 0), "blue.png": (0, 0, 255)}


@pytest.fixture
def encoder(tiny_parts: Path, tmp_path: Path) -> SampleEncoder:
    for name, colour in COLOURS.items():
        Image.new("RGB", (12, 8), colour).save(tmp_path / name)
    return SampleEncoder(
        tokenizer=load_tokenizer(tiny_parts / "decoder"),
        image_transform=ImageTransform.from_pretrained(tiny_parts / "encoder", aspect="square"),
        image_folder=tmp_path,
        num_image_tokens=4,
        template="mpt",
    )


def pixels_of(encoder: SampleEncoder, colour: tuple[int, int, int]) -> torch.Tensor:
    return encoder.image_transform.prepare(Image.new("RGB", (16, 16), colour))


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


def test_question_becomes_a_prompt(encoder):
    asked = question("q", "red.png")
    sample = QuestionDataset(GivenQuestions([asked]), encoder)[0]
    assert (sample.id, sample.question) == ("q", asked)
    assert text_of(encoder, sample).endswith("user\n@@@@\nWhich?<|im_end|><|im_start|>assistant\n")
    assert set(sample.labels.tolist()) == {-100}
    assert torch.equal(sample.pixel_values[0], pixels_of(encoder, (255, 0, 0)))


@pytest.fixture
def questions() -> list[Question]:
    images = ["red.png", None, "red.png", "green.png", "blue.png"]
    return [question(str(index), image) for index, image in enumerate(images)]


@pytest.mark.parametrize(
    ("source", "colours"),
    [
        ("own", [(255, 0, 0), None, (255, 0, 0), (0, 255, 0), (0, 0, 255)]),
        # The next one that differs: the second red question is passed over, and the last one starts again.
        ("other", [(0, 255, 0), None, (0, 255, 0), (0, 0, 255), (255, 0, 0)]),
        ("grey", [(128, 128, 128), None, (128, 128, 128), (128, 128, 128), (128, 128, 128)]),
    ],
)
def test_image_source_chooses_the_picture_and_keeps_the_words(encoder, questions, source, colours):
    own, dataset = (
        QuestionDataset(GivenQuestions(questions), encoder, image_source) for image_source in ("own", source)
    )
    assert len(dataset) == 5
    for index, colour in enumerate(colours):
        assert dataset[index].input_ids.tolist() == own[index].input_ids.tolist()
        assert dataset[index].question == questions[index]
        if colour is None:
            assert dataset[index].pixel_values.shape == (0, 3, 16, 16)
        else:
            assert torch.equal(dataset[index].pixel_values, pixels_of(encoder, colour)[None])


def test_without_a_picture_the_slot_goes_too(encoder, questions):
    dataset = QuestionDataset(GivenQuestions(questions), encoder, "none")
    for index in range(5):
        sample = dataset[index]
        assert sample.pixel_values.shape == (0, 3, 16, 16)
        assert text_of(encoder, sample).endswith("user\nWhich?<|im_end|><|im_start|>assistant\n")
        assert -200 not in sample.input_ids.tolist()


@pytest.mark.parametrize("images", [["red.png"], ["red.png", None, "red.png"]])
def test_other_picture_where_there_is_only_one(encoder, images):
    questions = [question(str(index), image) for index, image in enumerate(images)]
    found = error_of(lambda: QuestionDataset(GivenQuestions(questions), encoder, "other")[0])
    assert found == "question '0': image_sources: 'other' needs two different pictures, found only one"


def test_question_that_cannot_be_encoded_is_named(encoder):
    found = error_of(lambda: replace(encoder, template="plain").encode_question(question("q7", None), None))
    assert found.startswith("question 'q7': template 'plain': expected one question with '<image>'")


def test_question_with_a_missing_picture_is_named(encoder):
    """As a record is; among 21,208 questions the file name alone may not tell."""
    dataset = QuestionDataset(GivenQuestions([question("q7", "none.png")]), encoder)
    assert error_of(lambda: dataset[0]).startswith("question 'q7': cannot open picture ")


def asked_in(encoder, texts_and_images, source="own"):
    """A set of questions of texts of some lengths."""
    questions = [
        question(str(number), image)._replace(prompt=("" if image is None else "<image>\n") + "x" * length)
        for number, (length, image) in enumerate(texts_and_images)
    ]
    return QuestionDataset(GivenQuestions(questions), encoder, source)


def test_the_longest_come_first_and_questions_about_one_picture_together(encoder):
    # Four image tokens and a line break make a picture's question five longer than its words.
    dataset = asked_in(encoder, [(9, None), (8, "red.png"), (13, None), (2, "blue.png"), (20, "blue.png"), (3, None)])
    lengths = [len(sample.input_ids) for sample in dataset]
    assert [length - lengths[5] for length in lengths] == [6, 10, 10, 4, 22, 0]
    assert dataset.order() == [4, 3, 1, 2, 0, 5]
    assert asked_in(encoder, [(3, None), (3, None), (4, None), (3, None)]).order() == [2, 0, 1, 3]


def test_questions_that_are_asked_in_part_stay_the_first_ones(encoder):
    dataset = asked_in(encoder, [(1, None), (5, None), (3, None), (9, None), (7, None)])
    assert dataset.order(3) == [1, 2, 0, 3, 4]
    assert dataset.order(0) == dataset.order(99) == dataset.order() == [3, 4, 1, 2, 0]


@pytest.mark.parametrize(
    ("source", "order", "pictures"),
    [
        ("own", [2, 0, 1, 3], ["red.png", "blue.png", "red.png", None]),
        ("grey", [2, 1, 0, 3], ["grey", "grey", "grey", None]),
        ("other", [2, 1, 0, 3], [None, None, None, None]),
        ("none", [2, 3, 1, 0], [None, None, None, None]),
    ],
)
def test_pictures_that_are_known_to_be_the_same_are_named(encoder, source, order, pictures):
    dataset = asked_in(encoder, [(4, "red.png"), (5, "blue.png"), (8, "red.png"), (6, None)], source)
    assert dataset.order() == order
    assert [dataset[index].picture for index in range(4)] == pictures
    assert [dataset[index].index for index in range(4)] == [0, 1, 2, 3]


def test_a_picture_is_read_once_for_questions_one_after_the_other(encoder, monkeypatch):
    read, load = [], SampleEncoder.load_picture
    monkeypatch.setattr(SampleEncoder, "load_picture", lambda self, name: read.append(name) or load(self, name))
    dataset = asked_in(encoder, [(4, "red.png"), (5, "red.png"), (2, None), (8, "red.png"), (6, "blue.png")])
    samples = [dataset[index] for index in range(5)]
    assert read == ["red.png", "blue.png"]
    assert torch.equal(samples[3].pixel_values[0], pixels_of(encoder, COLOURS["red.png"]))
    assert len(samples[2].pixel_values) == 0
    plain = encoder.encode_question(dataset.questions[3], encoder.load_picture("red.png"))
    assert torch.equal(samples[3].input_ids, plain.input_ids)


def test_a_source_may_keep_its_pictures_elsewhere(encoder, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    Image.new("RGB", (12, 8), (9, 9, 9)).save(folder / "red.png")
    source = GivenQuestions([question("q", "red.png")])
    source.image_folder = folder
    sample = QuestionDataset(source, encoder)[0]
    assert torch.equal(sample.pixel_values[0], pixels_of(encoder, (9, 9, 9)))

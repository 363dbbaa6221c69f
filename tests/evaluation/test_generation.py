"""Guards: an answer that is cut too early or too late, or that depends on the other questions of its batch."""

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image

from llava_pl.data.clip_pixels import look_up
from llava_pl.data.collate import collate
from llava_pl.data.image import ImageTransform
from llava_pl.data.question_dataset import QuestionDataset
from llava_pl.data.question_source import GivenQuestions
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation.generation import (
    GenerationConfig,
    answer_questions,
    ask_about_picture,
    generate_answers,
    tokenize_answer,
)
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.anyres import build_newline
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.types import IMAGE_TOKEN_INDEX, ImageGrid, InputError, Question


@pytest.fixture(scope="module")
def model(alphabet) -> LlavaModel:
    return alphabet


def batch(tokenizer, *prompts, num_pictures=0):
    """A left-padded batch; the pictures stand at the start of the first prompts."""
    rows = [tokenizer.encode(prompt) for prompt in prompts]
    rows = [[IMAGE_TOKEN_INDEX] * 4 * (n < num_pictures) + row for n, row in enumerate(rows)]
    width = max(map(len, rows))
    return {
        "ids": list(prompts),
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        "pixel_values": torch.ones(num_pictures, 3, 16, 16),
    }


def answer(model, tokenizer, *prompts, max_new_tokens=8, num_pictures=0, **options):
    config = GenerationConfig(max_new_tokens=max_new_tokens)
    return generate_answers(model, batch(tokenizer, *prompts, num_pictures=num_pictures), tokenizer, config, **options)


def test_tokenizer_is_one_character_a_token(tokenizer):
    assert tokenizer.encode("z") == [1, ord("z") - 29]


def test_answers_end_at_their_length(model, tokenizer):
    assert answer(model, tokenizer, "a", max_new_tokens=1) == ["b"]
    assert answer(model, tokenizer, "a", max_new_tokens=5) == ["bcdef"]


def test_answers_end_at_the_end_mark(model, tokenizer):
    assert answer(model, tokenizer, "w") == ["xyz"]
    assert answer(model, tokenizer, "z") == [""]


def test_answers_end_at_a_stop_text(model, tokenizer):
    assert answer(model, tokenizer, "a", stop="ef", max_new_tokens=20) == ["bcd"]
    assert answer(model, tokenizer, "a", stop="b", max_new_tokens=20) == [""]


def test_generation_itself_ends_at_a_stop_text(model, tokenizer, monkeypatch):
    """Not only the text: a thousand more tokens would be generated and thrown away."""
    num_rows, extend = [], model.decoder.extend

    def watch(cache, inputs_embeds, attention_mask):
        num_rows.append(len(inputs_embeds))
        return extend(cache, inputs_embeds, attention_mask)

    monkeypatch.setattr(model.decoder, "extend", watch)
    answer(model, tokenizer, "a", "c", stop="ef", max_new_tokens=20)
    assert num_rows == [2, 2, 2, 1, 1]
    num_rows.clear()
    answer(model, tokenizer, "w", "y", max_new_tokens=20)
    assert num_rows == [2, 2, 1, 1]


def test_answers_of_a_batch_end_one_by_one(model, tokenizer):
    prompts = ["Say a", "w", "x", "once upon a time k"]
    together = answer(model, tokenizer, *prompts)
    assert together == ["bcdefghi", "xyz", "yz", "lmnopqrs"]
    assert [answer(model, tokenizer, prompt)[0] for prompt in prompts] == together


def test_stop_texts_of_a_batch_end_one_by_one(model, tokenizer):
    assert answer(model, tokenizer, "Say a", "w", "long before d", stop="fg") == ["bcde", "xyz", "e"]


def test_pictures_go_to_their_own_questions(model, tokenizer):
    assert answer(model, tokenizer, "a", "Say w", num_pictures=1) == ["bcdefghi", "xyz"]


def test_tiled_pictures_go_to_their_own_questions(model, tokenizer):
    tiled = LlavaModel(model.vision_encoder, model.projector, model.decoder, build_newline(32)).eval()
    grids = [ImageGrid(1, 1, height=2, width=1), ImageGrid(1, 2, height=2, width=4)]
    rows = [
        [IMAGE_TOKEN_INDEX] * grid.num_tokens(4) + tokenizer.encode(prompt)
        for grid, prompt in zip(grids, ("a", "Say w"), strict=True)
    ]
    width = max(map(len, rows))
    asked = {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        "pixel_values": torch.ones(2 + 3, 3, 16, 16),
        "grids": grids,
    }
    assert generate_answers(tiled, asked, tokenizer, GenerationConfig(max_new_tokens=8)) == ["bcdefghi", "xyz"]


def test_surrounding_white_space_is_no_answer(model, tokenizer):
    # After ~ come the line break, the space and the exclamation mark.
    assert answer(model, tokenizer, "~", max_new_tokens=3) == ["!"]


@pytest.mark.parametrize(
    "wish",
    [{"do_sample": True, "temperature": 5.0}, {"num_beams": 3}, {"repetition_penalty": 9.0}, {"eos_token_id": 40}],
)
def test_answers_are_greedy_whatever_the_decoder_wishes(model, tokenizer, wish):
    """The head is turned into "say the same again", which a penalty on repetition would forbid."""
    model = copy.deepcopy(model)
    network = model.decoder.model
    network.lm_head.weight = network.model.embed_tokens.weight
    network.generation_config.update(**wish)
    assert answer(model, tokenizer, "aE", max_new_tokens=5) == ["EEEEE"]


@pytest.fixture(scope="module")
def encoder(tiny_parts, tokenizer, tmp_path_factory) -> SampleEncoder:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.new("RGB", (12, 8), (90 * number, 50, 200)).save(folder / f"{number}.png")
    transform = ImageTransform.from_pretrained(tiny_parts / "encoder")
    return SampleEncoder(tokenizer, transform, folder, num_image_tokens=4)


@pytest.fixture(scope="module")
def random_model(tiny_parts) -> LlavaModel:
    """A model whose answers depend on all that they follow, and end early or late."""
    torch.manual_seed(0)
    encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20.0)
        decoder.model.lm_head.weight[2] *= 2.0
    projector = build_projector("linear", vision_width=16, decoder_width=32)
    return LlavaModel(encoder, projector, decoder).eval()


def ask(image=None, length=5, name="q", choices=("a", "b", "c")):
    slot = "" if image is None else "<image>\n"
    return Question(name, f"{slot}{'Is it so, or is it rather not so? ' * 3}"[: length + len(slot)], choices, 0, image)


# Lengths are mixed; of pictures, the first has four questions, the last one.
QUESTIONS = [
    ask("0.png", 30), ask(None, 9), ask("1.png", 12), ask("0.png", 44), ask("0.png", 7), ask(None, 70),
    ask("2.png", 31), ask("1.png", 60), ask(None, 33), ask("0.png", 30),
]  # fmt: skip


def answers_of(model, encoder, batch_size, config, *, is_shared=True):
    """The answers by place, asked in batches as the loader makes them, and how often a batch shared a picture."""
    dataset, answers, num_shared = QuestionDataset(GivenQuestions(QUESTIONS), encoder), {}, 0
    order = dataset.order()
    for start in range(0, len(order), batch_size):
        samples = [dataset[index] for index in order[start : start + batch_size]]
        if not is_shared:
            samples = [replace(sample, picture=None) for sample in samples]
        batch = collate(samples, pad_token_id=0, num_image_tokens=4, padding_side="left")
        num_shared += "pictures" in batch
        found = answer_questions(model, batch, encoder, config)
        answers |= dict(zip(batch["indices"], zip(*found.values(), strict=True), strict=True))
    return [answers[place] for place in range(len(QUESTIONS))], num_shared


def test_answers_do_not_depend_on_batch_size_or_shared_pictures(random_model, encoder):
    config = GenerationConfig(max_new_tokens=12)
    alone, _ = answers_of(random_model, encoder, 1, config)
    assert len({len(text) for (text,) in alone}) > 3
    assert len(set(alone)) > 5
    for batch_size, num_sharing in ((3, 2), (8, 1)):
        assert answers_of(random_model, encoder, batch_size, config) == (alone, num_sharing)
        assert answers_of(random_model, encoder, batch_size, config, is_shared=False) == (alone, 0)


@pytest.mark.parametrize("template", ["vicuna_v1", "mpt", "v0"])
def test_many_prompts_about_one_picture(random_model, encoder, template):
    encoder, picture = replace(encoder, template=template), Image.new("RGB", (20, 9), (10, 200, 30))
    prompts = ["What?", "What is it that one sees there?", "<image>\nHow many?", "What is it not?"]
    config = GenerationConfig(max_new_tokens=9)
    alone = [ask_about_picture(random_model, encoder, picture, [prompt], config)[0] for prompt in prompts]
    assert len(set(alone)) > 1
    for batch_size in (16, 3):
        found = ask_about_picture(random_model, encoder, picture, prompts, config, batch_size=batch_size)
        assert found == alone


def test_the_likeliest_letter_is_the_answer(random_model, encoder):
    """Against a plain pass through prompt and answer; that begins with a space, as the template writes it."""
    answers, _ = answers_of(random_model, encoder, 3, GenerationConfig(method="likelihood"))
    for question, (text, scores) in zip(QUESTIONS, answers, strict=True):
        assert list(scores) == ["A", "B", "C"]
        assert text == max(scores, key=scores.get)
        picture = None if question.image is None else encoder.load_picture(question.image)
        prompt = encoder.encode_question(question, picture)
        pixel_values = look_up(prompt.pixel_values, prompt.value_of_level)
        for letter, score in scores.items():
            ids = torch.cat([prompt.input_ids, torch.tensor(encoder.tokenizer.encode(f" {letter}")[1:])])
            with torch.no_grad():
                logits = random_model(ids[None], pixel_values).logits[0].log_softmax(-1)
            expected = logits[-3, ids[-2]] + logits[-2, ids[-1]]
            assert score == pytest.approx(expected.item(), abs=1e-4)
    assert len({text for text, _ in answers}) > 1


def test_an_answer_is_tokenized_as_the_template_writes_it(encoder):
    def texts(template, answer):
        ids = tokenize_answer(answer, replace(encoder, template=template))
        return [encoder.tokenizer.decode([token]) for token in ids]

    assert texts("vicuna_v1", "B") == [" ", "B"]
    assert texts("mpt", "B") == ["B"]
    assert texts("v0", "red cat") == [" ", *"red cat"]


def test_an_answer_that_its_end_mark_swallows_is_refused(encoder, monkeypatch):
    monkeypatch.setattr(type(encoder.tokenizer), "decode", lambda *_, **__: "B</s>")
    with pytest.raises(InputError, match=r"likelihood needs answers that end where a token does, found 'B' joined"):
        tokenize_answer("B", encoder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "model.generation.max_new_tokens: expected at least 1, found 0"),
        ({"method": "guess"}, "model.generation.method: expected generate or likelihood, found 'guess'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        GenerationConfig(**settings)

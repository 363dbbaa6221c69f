"""Guards: an answer that is cut too early or too late, or that depends on the other questions of its batch."""

import copy

import pytest
import torch
from transformers import AutoTokenizer

from llava_pl.evaluation.generation import GenerationConfig, generate_answers
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.anyres import build_newline
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.types import IMAGE_TOKEN_INDEX, ImageGrid


@pytest.fixture(scope="module")
def tokenizer(tiny_parts):
    return AutoTokenizer.from_pretrained(tiny_parts / "decoder")


@pytest.fixture(scope="module")
def model(tiny_parts) -> LlavaModel:
    """A model that says the next character of the alphabet, and the end mark after z.

    Its layers add nothing, and the head's row of a token is the embedding of the one before it.
    """
    torch.manual_seed(0)
    encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
    network = decoder.model
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        words = torch.nn.functional.normalize(torch.randn(99, 32), dim=-1)
        network.model.embed_tokens.weight.copy_(words)
        after = [*range(1, 99), 3]
        after[1], after[2], after[ord("z") - 29] = after[ord("z") - 29], 0, 2
        assert len(set(after)) == 99  # of two rows written to one place either may win
        network.lm_head.weight[after] = words
    projector = build_projector("linear", vision_width=16, decoder_width=32)
    return LlavaModel(encoder, projector, decoder).eval()


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

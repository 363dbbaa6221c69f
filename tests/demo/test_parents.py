"""Guards: a tokenizer whose offsets or texts drift, parts that do not load, labels unlike the data module's."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl.data.tokenization import encode_conversation
from llava_pl.demo import parents
from llava_pl.demo.dataset import read_conversations, read_pictures, write_dataset
from llava_pl.demo.parents import make_parents, train_decoder, train_encoder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, num_pictures=300, num_held_out=4, seed=0)
    return path


@pytest.fixture(scope="module")
def parts(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("parts")
    make_parents(path, data, seed=0, encoder_steps=2, decoder_steps=18)
    return path


@pytest.fixture(scope="module")
def tokenizer(parts):
    return AutoTokenizer.from_pretrained(parts / "decoder")


def test_prompts_are_short_and_their_tokens_exact(tokenizer):
    text = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: Where is the square?\nContext: N/A\n"
        "Options: (A) top-left (B) right ASSISTANT: right (B). The answer is B.</s>"
    )
    encoded = tokenizer(text, return_offsets_mapping=True)
    pieces = [text[start:end] for start, end in encoded["offset_mapping"]]
    assert pieces == [
        *("", text[: text.index(" USER:")], " USER:", " Where", " is", " the", " square", "?"),
        *("\nContext: N/A\nOptions:", " (A)", " top-left", " (B)", " right", " ASSISTANT:"),
        *(" right", " (B)", ".", " The answer is", " B", ".", "</s>"),
    ]
    assert encoded["input_ids"][0] == tokenizer.bos_token_id
    assert encoded["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "text",
    [
        "red",
        " red",
        "red  circle \n\n\t",
        "Gr\u00fc\u00dfe, 12+3=15?",
        "\u65e5\u672c",
        "a<s>b</s> c",
        "<image>\nWhat?",
        "don't",
    ],
)
def test_decoding_restores_every_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_special_tokens(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token) == (
        *("<s>", "</s>", "<unk>", "<pad>"),
    )
    assert len(tokenizer) < parents._MAX_VOCABULARY


def test_parts_load_as_ordinary_folders(parts, data, tokenizer):
    encoder = CLIPVisionModel.from_pretrained(parts / "encoder")
    assert (encoder.config.image_size, encoder.config.patch_size, encoder.config.num_hidden_layers) == (48, 16, 2)
    processor = CLIPImageProcessorPil.from_pretrained(parts / "encoder")
    picture = Image.open(data / "images" / "00000.png")
    pixel_values = processor(picture, return_tensors="pt")["pixel_values"]
    assert encoder(pixel_values).last_hidden_state.shape == (1, 10, 128)
    decoder = AutoModelForCausalLM.from_pretrained(parts / "decoder")
    assert decoder.config.vocab_size == len(tokenizer)
    assert decoder.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not torch.equal(decoder.lm_head.weight, decoder.model.embed_tokens.weight)


def test_encoder_is_trained_on_what_the_processor_gives(tmp_path, data, monkeypatch):
    pictures, presence = read_pictures(data, 4)
    seen = []
    forward = CLIPVisionModel.forward

    def remember(self, pixel_values):
        seen.append(pixel_values)
        return forward(self, pixel_values)

    monkeypatch.setattr(CLIPVisionModel, "forward", remember)
    monkeypatch.setattr(parents, "_ENCODER_BATCH_SIZE", 4)
    train_encoder(tmp_path, pictures, presence, seed=0, num_steps=1)
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    expected = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    # The same formula in another order of operations: a few float32 roundings of values up to 3.
    torch.testing.assert_close(seen[0], expected[order], atol=2e-6, rtol=0)


def test_labels_equal_those_of_the_data_module(data, tokenizer):
    conversations = read_conversations(data)[:20]
    input_ids, labels = parents._encode(conversations, tokenizer)
    for row, turns in enumerate(conversations):
        expected = encode_conversation(turns, tokenizer, template="vicuna_v1", num_image_tokens=0)
        length = len(expected.input_ids)
        assert input_ids[row, :length].tolist() == expected.input_ids.tolist()
        assert labels[row, :length].tolist() == expected.labels.tolist()
        assert (input_ids[row, length:] == tokenizer.pad_token_id).all()
        assert (labels[row, length:] == -100).all()


def test_decoder_learns_and_the_seed_settles_it(tmp_path, data, tokenizer):
    conversations = read_conversations(data)
    global_state = torch.get_rng_state()
    models = [train_decoder(tmp_path / str(i), conversations, tokenizer, seed=seed, num_steps=num_steps)
              for i, (seed, num_steps) in enumerate([(1, 30), (1, 30), (2, 1)])]  # fmt: skip
    assert torch.equal(torch.get_rng_state(), global_state)
    weights = [(tmp_path / str(i) / "model.safetensors").read_bytes() for i in range(3)]
    assert weights[0] == weights[1] != weights[2]
    input_ids, labels = parents._encode(conversations[:32], tokenizer)
    with torch.no_grad():
        losses = [float(model(input_ids, labels=labels).loss) for model in models]
    # Uniform over 470 words is 6.2; the fixed words of the answers alone bring it below 2.
    assert losses[0] < 3 < losses[2]


def test_encoder_learns_and_the_seed_settles_it(tmp_path, data):
    pictures, presence = read_pictures(data, 300)
    models = [train_encoder(tmp_path / str(i), pictures, presence, seed=1, num_steps=3) for i in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    losses = []
    step = parents._minimise

    def watch(loss, *rest):
        def keep(rows):
            total = loss(rows)
            losses.append(total.item())
            return total

        step(keep, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parents, "_minimise", watch)
        train_encoder(tmp_path, pictures, presence, seed=0, num_steps=40)
    assert losses[-1] < 0.7 * losses[0]


def test_made_once_and_again_when_arguments_change(parts, data, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(parents, "train_encoder", fail)
    make_parents(parts, data, seed=0, encoder_steps=2, decoder_steps=18)
    with pytest.raises(AssertionError, match="made again"):
        make_parents(parts, data, seed=1, encoder_steps=2, decoder_steps=18)


def test_parts_depend_on_the_data(parts, data, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(parents, "train_encoder", lambda *_, **__: made.append("encoder"))
    monkeypatch.setattr(parents, "train_decoder", lambda *_, **__: made.append("decoder"))
    for seed in (0, 0, 1):
        write_dataset(tmp_path / "data", num_pictures=4, num_held_out=4, seed=seed)
        make_parents(tmp_path / "parts", tmp_path / "data", seed=0, decoder_steps=1)
    assert made == ["encoder", "decoder"] * 2
    assert json.loads((tmp_path / "parts" / "manifest.json").read_text())["data"]["seed"] == 1


def test_presence_columns_match_the_head(data):
    pictures, presence = read_pictures(data, 8)
    assert presence.shape == (8, 19)
    assert presence.dtype == np.bool_
    assert pictures.dtype == np.uint8

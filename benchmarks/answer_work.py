"""The model, the pictures and the questions that `answering.py` has answered, written once and read by every way.

In: a folder with LLaMA's tokenizer. Out: a folder with ``encoder``, ``decoder``, ``mm_projector.bin`` and, of the same
weights, ``hf`` (llava-hf's layout); ``pictures``; for each set of questions ``NAME.json`` with an id, a text, the name
of a picture or null, and the ids of the prompt with a single mark for the picture.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from dataset import VOCABULARY, write_picture
from step_work import IMAGE_SIDE, NUM_IMAGE_TOKENS, PATCH_SIDE, write_eye
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.types import Question

NUM_WORDS, IMAGE_ID = 32_000, 32_000
"""LLaMA's words; llava-hf has a further one for image tokens."""
END_STRENGTH = 2.5
"""How much larger the end mark's row of the head is than that of a word: answers then end early, late or not at all."""
REQUEST = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Size:
    """How large the model is.

    Args:
        vision_width: Width of the encoder.
        vision_layers: Its layers, of which the last one is not used.
        width: Width of the decoder.
        layers: Its layers.
    """

    vision_width: int
    vision_layers: int
    width: int
    layers: int


TINY = Size(vision_width=128, vision_layers=4, width=192, layers=6)


def write_model(folder: Path, tokenizer_path: str, size: Size = TINY) -> None:
    """Write the model; it says words of letters alone, which every tokenizer writes alike, and ends after a few."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_width // 64,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
    )
    # Started wide, attention looks at the text; else all questions would have one answer.
    language = LlamaConfig(
        vocab_size=NUM_WORDS,
        hidden_size=size.width,
        intermediate_size=round(size.width * 8 / 3),
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        max_position_embeddings=2048,
        initializer_range=0.08,
        tie_word_embeddings=False,
    )
    decoder = LlamaForCausalLM(language)
    pieces = load_tokenizer(tokenizer_path).get_vocab()
    mark = "\u2581"  # before the first letter of a word
    words = [
        number for piece, number in pieces.items() if piece[0] == mark and piece[1:].isascii() and piece[1:].isalpha()
    ]
    with torch.no_grad():
        is_silent = torch.ones(NUM_WORDS, dtype=torch.bool)
        is_silent[[2, *words[:1000]]] = False
        decoder.lm_head.weight[is_silent] *= 0.01
        decoder.lm_head.weight[2] *= END_STRENGTH
    decoder.save_pretrained(folder / "decoder")
    wider = LlamaConfig(**{**language.to_dict(), "vocab_size": NUM_WORDS + 64})
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=wider, image_token_id=IMAGE_ID))
    with torch.no_grad():
        for own, table in (
            (decoder.model.embed_tokens, model.model.language_model.embed_tokens),
            (decoder.lm_head, model.lm_head),
        ):
            table.weight.zero_()
            table.weight[:NUM_WORDS] = own.weight
        model.model.language_model.layers.load_state_dict(decoder.model.layers.state_dict())
    model.save_pretrained(folder / "hf")
    write_eye(folder, model)


def make_encoder(folder: Path, tokenizer_path: str) -> SampleEncoder:
    """Return what makes samples of questions."""
    return SampleEncoder(
        load_tokenizer(tokenizer_path),
        ImageTransform(IMAGE_SIDE),
        folder / "pictures",
        num_image_tokens=NUM_IMAGE_TOKENS,
    )


def write_questions(folder: Path, encoder: SampleEncoder, num_questions: int, num_pictures: int) -> None:
    """Write the questions of B7, shaped as ScienceQA's, and of B8: eight about each of some pictures.

    Half of B7's have a picture of their own. Their contexts are empty or up to a few hundred words.
    """
    draw, words = random.Random(0), VOCABULARY.split()
    (folder / "pictures").mkdir()

    def sentence(num_words: int) -> str:
        return " ".join(draw.choices(words, k=num_words)).strip(",")

    def ask(name: str, picture: str | None, num_context: int) -> Question:
        choices = tuple(sentence(draw.randint(1, 6)) for _ in range(draw.randint(2, 4)))
        options = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=False))
        context = sentence(num_context) if num_context else "N/A"
        text = f"{sentence(draw.randint(6, 25))}?\nContext: {context}\nOptions: {options}\n{REQUEST}"
        return Question(name, text if picture is None else f"<image>\n{text}", choices, 0, picture)

    questions = []
    for number in range(num_questions):
        picture = f"{number}.jpg" if number % 2 == 0 else None
        if picture is not None:
            write_picture(folder / "pictures" / picture, number)
        # Half without a context, the others from a line to a page, as drawn from the exponential distribution.
        num_context = min(300, int(draw.expovariate(1 / 60))) if draw.random() < 0.5 else 0
        questions.append(ask(str(number), picture, num_context))
    write_set(folder / "mixed.json", encoder, questions)
    shared, apart = [], []
    for number in range(num_pictures):
        write_picture(folder / "pictures" / f"shared-{number}.jpg", 10_000 + number)
        for place in range(8):
            question = ask(f"{number}-{place}", f"shared-{number}.jpg", 0)
            shared.append(question)
            # The same picture under another name, so that nobody knows it for the same.
            own = f"apart-{number}-{place}.jpg"
            (folder / "pictures" / own).symlink_to(f"shared-{number}.jpg")
            apart.append(Question(question.id, question.prompt, question.choices, 0, own))
    write_set(folder / "shared.json", encoder, shared)
    write_set(folder / "apart.json", encoder, apart)


def write_set(path: Path, encoder: SampleEncoder, questions: list[Question]) -> None:
    """Write a set of questions."""
    entries = []
    for question in questions:
        tokens = encoder.tokenize_question(question, has_picture=question.image is not None)
        entries.append(
            {
                "id": question.id,
                "text": question.prompt,
                "picture": question.image,
                "ids": tokens.input_ids.tolist(),
            }
        )
    path.write_text(json.dumps(entries))

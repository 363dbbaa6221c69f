"""Answers of this project, as `answering.py` asks for them: questions to texts, through its loader and its model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from answer_work import make_encoder
from harness import Channel

from llava_pl.data.collate import collate
from llava_pl.data.eval_loader import make_eval_loader
from llava_pl.data.question_dataset import QuestionDataset
from llava_pl.data.question_source import GivenQuestions
from llava_pl.evaluation.generation import GenerationConfig, answer_questions
from llava_pl.export.original import projector_weights
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.types import Question


def build(folder: Path, dtype: torch.dtype) -> LlavaModel:
    """Return the model."""
    encoder, decoder = load_vision_encoder(folder / "encoder"), load_decoder(folder / "decoder")
    projector = build_projector("mlp2x_gelu", vision_width=encoder.width, decoder_width=decoder.width)
    projector.load_state_dict(projector_weights(torch.load(folder / "mm_projector.bin"), folder))
    return LlavaModel(encoder, projector, decoder).to(dtype).eval()


def main(folder: Path, tokenizer: str, dtype: str, max_new_tokens: int) -> None:
    """Answer a set of questions in batches of a size whenever that is asked for."""
    channel = Channel()
    model, encoder = build(folder, getattr(torch, dtype)), make_encoder(folder, tokenizer)

    def gather(samples: list) -> dict:
        return collate(samples, pad_token_id=0, num_image_tokens=encoder.num_image_tokens, padding_side="left")

    while request := channel.wait():
        questions = [
            Question(entry["id"], entry["text"], (), 0, entry["picture"])
            for entry in json.loads((folder / f"{request['questions']}.json").read_text())
        ]
        loader = make_eval_loader(
            QuestionDataset(GivenQuestions(questions), encoder),
            batch_size=request["batch_size"],
            num_replicas=1,
            rank=0,
            num_workers=0,
            collate_fn=gather,
        )
        answers = {}
        for batch in loader:
            texts = answer_questions(model, batch, encoder, GenerationConfig(max_new_tokens=max_new_tokens))["texts"]
            answers |= dict(zip(batch["ids"], texts, strict=True))
        channel.answer(answers=answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))

"""Guards: an upgrade, of this project or of transformers, after which what was saved before loads as something else."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from llava_pl import load_pretrained

FOLDER = Path(__file__).resolve().parents[1] / "export" / "layouts_v1"
ASK = runpy.run_path(str(FOLDER.with_name("make_layouts.py")))["ask"]
FORMS = {"run.ckpt": False, "artifact": False, "hf": False, "llava": False, "lora": True}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_saved_by_the_first_release_still_answers_as_it_did(monkeypatch, form):
    monkeypatch.chdir(FOLDER)  # a checkpoint names its bases as its run did
    parts = {"base": "decoder", "vision_encoder": "encoder"} if FORMS[form] else {}
    pretrained = load_pretrained(form, **parts)
    for found, expected in zip(ASK(pretrained.model), json.loads(Path("answers.json").read_text()), strict=True):
        expected = torch.tensor(expected)
        # Logits of up to 0.13, equal where they were made but for the LoRA that is merged while it is read: 2e-6. A
        # lost LoRA is 9e-3.
        torch.testing.assert_close(found[:, : expected.shape[1]], expected, atol=1e-5, rtol=0)
    assert pretrained.settings.template == "mpt"
    assert pretrained.tokenizer("ab")["input_ids"] == [1, 68, 69]


def test_a_projector_of_the_first_release_still_loads(monkeypatch):
    monkeypatch.chdir(FOLDER)
    pretrained = load_pretrained("projector", base="decoder", vision_encoder="encoder")
    weights = torch.load("projector/mm_projector.bin", weights_only=True)
    for name, tensor in pretrained.model.projector.state_dict().items():
        assert torch.equal(tensor, weights[f"model.mm_projector.{name}"])

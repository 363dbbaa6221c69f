"""Guards: ranks that ask DeepSpeed's ZeRO for another number of steps than the others, and wait for them forever."""

import json
from importlib.util import find_spec

import pytest
import torch
import yaml
from PIL import Image
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from llava_pl.evaluation.answers import read_answers

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra [deepspeed]; make test-deepspeed"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Seven questions, an odd number for two ranks; the first has the only picture."""
    root = tmp_path_factory.mktemp("scienceqa")
    texts = ("hint", "lecture", "solution", "task", "topic", "category", "skill")
    problem = {**dict.fromkeys(texts, ""), "choices": ["a", "b"], "answer": 0, "split": "test", "image": None}
    problem |= {"grade": "grade2", "subject": "language science"}
    problems = {str(number): {**problem, "question": chr(65 + 3 * number) * 25 * number + "?"} for number in range(7)}
    problems["0"]["image"] = "image.png"
    (root / "images" / "test" / "0").mkdir(parents=True)
    Image.effect_noise((20, 12), 90).convert("RGB").save(root / "images" / "test" / "0" / "image.png")
    (root / "problems.json").write_text(json.dumps(problems))
    (root / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    return root


@pytest.fixture(scope="module")
def decoder(tiny_parts, tmp_path_factory):
    """The tiny decoder, but for a stronger end mark: of its answers some end long before the others."""
    folder = tmp_path_factory.mktemp("decoder")
    model = LlamaForCausalLM.from_pretrained(tiny_parts / "decoder")
    with torch.no_grad():
        model.lm_head.weight[2] *= 2.3
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(tiny_parts / "decoder").save_pretrained(folder)
    return folder


def test_answers_are_those_of_one_process(root, tiny_parts, decoder, tmp_path, run, strategies):
    answers = {}
    for name, ranks in (("single", 1), ("zero2", 2), ("zero3", 2)):
        settings = {
            "seed_everything": 1,  # of the projector, which no run has trained
            "model": {
                "stage": "finetune",
                "vision_encoder": {"path": str(tiny_parts / "encoder")},
                "decoder": {"path": str(decoder)},
                "optim": {"learning_rate": 1e-3},
                "generation": {"max_new_tokens": 40},
            },
            "data": {
                "class_path": "llava_pl.ScienceQADataModule",
                "init_args": {
                    "root": str(root), "prompt_format": "QCM-LEA", "val_split": "test", "eval_batch_size": 2,
                    "max_length": 900, "num_workers": 0,
                },
            },
            "trainer": {
                "accelerator": "cpu", "devices": ranks, "strategy": strategies[name], "enable_progress_bar": False,
            },
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        run("-m", "llava_pl", "validate", "--config", f"{name}.yaml", "--run_dir", name, cwd=tmp_path)
        (path,) = (tmp_path / name / "predictions").glob("*.jsonl")
        answers[name] = read_answers(path)
    assert [row["question_id"] for row in answers["single"]] == [str(number) for number in range(7)]
    assert answers["zero2"] == answers["zero3"] == answers["single"]
    assert len({len(row["text"]) for row in answers["single"]}) > 2  # else no rank would have waited for another

"""Guards: answers that depend on the number of processes, and ranks of a divided model that wait for each other."""

import json
from importlib.util import find_spec

import pytest
import torch
import yaml
from PIL import Image
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from llava_pl.evaluation.answers import read_answers

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Seven questions of different lengths, an odd number for two ranks; three have pictures."""
    root = tmp_path_factory.mktemp("scienceqa")
    texts = ("hint", "lecture", "solution", "task", "topic", "category", "skill")
    problem = {**dict.fromkeys(texts, ""), "choices": ["a", "b"], "answer": 0, "split": "test", "image": None}
    problem |= {"grade": "grade2", "subject": "language science"}
    problems = {str(number): {**problem, "question": chr(65 + 3 * number) * 25 * number + "?"} for number in range(7)}
    for name in ("0", "3", "4"):
        problems[name]["image"] = "image.png"
        (root / "images" / "test" / name).mkdir(parents=True)
        Image.effect_noise((20, 12), 90).convert("RGB").save(root / "images" / "test" / name / "image.png")
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


ZERO = [
    pytest.mark.deepspeed,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra [deepspeed]; make test-deepspeed"),
]


@pytest.mark.parametrize(
    ("method", "names"),
    [
        pytest.param("generate", ["ddp", "fsdp2"], marks=pytest.mark.slow),
        pytest.param("likelihood", ["ddp", "fsdp2"], marks=pytest.mark.slow),
        pytest.param("generate", ["zero2", "zero3"], marks=ZERO),
    ],
)
def test_answers_are_those_of_one_process(root, tiny_parts, decoder, tmp_path, run, strategies, method, names):
    """Asked with a grey picture, questions share it."""
    answers, tables = {}, {}
    for name in ("single", *names):
        settings = {
            "seed_everything": 1,  # of the projector, which no run has trained
            "model": {
                "stage": "finetune",
                "vision_encoder": {"path": str(tiny_parts / "encoder")},
                "decoder": {"path": str(decoder)},
                "optim": {"learning_rate": 1e-3},
                "generation": {"max_new_tokens": 40, "method": method},
            },
            "data": {
                "class_path": "llava_pl.ScienceQADataModule",
                "init_args": {
                    "root": str(root), "prompt_format": "QCM-LEA", "val_split": "test", "eval_batch_size": 3,
                    "max_length": 900, "num_workers": 0, "image_sources": ["own", "grey"],
                },
            },
            "trainer": {
                "accelerator": "cpu", "devices": 1 if name == "single" else 2, "enable_progress_bar": False,
                "strategy": strategies.get(name, "auto"),
            },
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        run("-m", "llava_pl", "validate", "--config", f"{name}.yaml", "--run_dir", name, cwd=tmp_path)
        answers[name] = {path.name: read_answers(path) for path in (tmp_path / name / "predictions").iterdir()}
        tables[name] = {path.name: path.read_text() for path in (tmp_path / name / "reports").glob("*.md")}
    assert len(answers["single"]) == 2
    assert all(answers[name] == answers["single"] and tables[name] == tables["single"] for name in names)
    for rows in answers["single"].values():
        assert [row["question_id"] for row in rows] == [str(number) for number in range(7)]
        # Else no rank would have waited for another.
        assert method == "likelihood" or len({len(row["text"]) for row in rows}) > 2

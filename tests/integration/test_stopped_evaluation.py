"""Guards an evaluation that was killed: hours of answers asked again, or a file that is another one for it."""

import json

import pytest
import yaml
from PIL import Image

from llava_pl.evaluation.answers import read_answers

WATCH = '''
import os, signal
from lightning.pytorch.callbacks import Callback

class Watch(Callback):
    """Writes down what is asked, and is killed before a batch."""

    def __init__(self, killed_before: int = -1) -> None:
        self.killed_before = killed_before

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.killed_before:
            os.kill(os.getpid(), signal.SIGKILL)
        with open("asked.txt", "a") as file:
            file.write(" ".join(batch["ids"]) + "\\n")
'''


@pytest.fixture
def folder(tiny_parts, tmp_path):
    problem = {**dict.fromkeys(("hint", "lecture", "solution", "task", "topic", "category", "skill"), "")}
    problem |= {"choices": ["a", "b"], "answer": 0, "split": "test", "grade": "grade2", "subject": "language science"}
    problems = {str(n): {**problem, "image": None, "question": chr(65 + 3 * n) * 25 * n + "?"} for n in range(9)}
    problems["4"]["image"] = "image.png"
    (tmp_path / "images" / "test" / "4").mkdir(parents=True)
    Image.effect_noise((20, 12), 90).convert("RGB").save(tmp_path / "images" / "test" / "4" / "image.png")
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    settings = {
        "seed_everything": 1,
        "model": {
            "stage": "finetune",
            "vision_encoder": {"path": str(tiny_parts / "encoder")},
            "decoder": {"path": str(tiny_parts / "decoder")},
            "optim": {"learning_rate": 1e-3},
            "generation": {"max_new_tokens": 8},
        },
        "data": {
            "class_path": "llava_pl.ScienceQADataModule",
            "init_args": {"root": ".", "eval_batch_size": 2, "max_length": 900, "num_workers": 0},
        },
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "callbacks": [{"class_path": "watch.Watch"}]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "watch.py").write_text(WATCH)
    return tmp_path


def asked(folder):
    path = folder / "asked.txt"
    found = path.read_text().split()
    path.unlink()
    return found


def test_a_killed_evaluation_goes_on(folder, run):
    words = ["-m", "llava_pl", "test", "--config", "config.yaml"]
    run(*words, "--run_dir", "whole", cwd=folder)
    every = asked(folder)
    assert sorted(every) == [str(n) for n in range(9)]

    killed = [*words, "--run_dir", "stopped", "--trainer.callbacks.killed_before", "3"]
    run(*killed, cwd=folder, status=-9)
    assert asked(folder) == every[:6]
    predictions = folder / "stopped" / "predictions"
    assert [path.name for path in predictions.iterdir()] == [".scienceqa-test-step0.so-far.0.jsonl"]

    run(*words, "--run_dir", "stopped", cwd=folder)
    assert asked(folder) == every[6:]
    assert [path.name for path in predictions.iterdir()] == ["scienceqa-test-step0.jsonl"]
    name = "predictions/scienceqa-test-step0.jsonl"
    assert (folder / "stopped" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    report = "reports/scienceqa-test-step0.md"
    assert (folder / "stopped" / report).read_text() == (folder / "whole" / report).read_text()

    # Answers that were made in another way are not taken over.
    run(*killed, "--model.generation.max_new_tokens", "7", cwd=folder, status=-9)
    asked(folder)
    run(*words, "--run_dir", "stopped", cwd=folder)
    assert asked(folder) == every
    assert read_answers(folder / "stopped" / name) == read_answers(folder / "whole" / name)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 2)])
def test_on_whatever_number_of_ranks(folder, run, first, then):
    """Every rank is killed before its second batch; the file that comes of it is that of one process that was not."""

    def words(number, *more):
        ranks = ["--trainer.devices", "2", "--trainer.strategy", "ddp"] if number == 2 else []
        return ["-m", "llava_pl", "test", "--config", "config.yaml", *ranks, *more]

    run(*words(1, "--run_dir", "whole"), cwd=folder)
    asked(folder)
    killed = words(first, "--run_dir", "stopped", "--trainer.callbacks.killed_before", "1")
    run(*killed, cwd=folder, status=-9)
    before = asked(folder)
    assert len(before) == 2 * first
    run(*words(then, "--run_dir", "stopped"), cwd=folder)
    again = asked(folder)
    assert not set(before) & set(again)
    assert {*before, *again} == {str(n) for n in range(9)}
    rows, whole = (read_answers(next((folder / name / "predictions").iterdir())) for name in ("stopped", "whole"))
    assert rows == whole
    reports = [(folder / name / "reports" / "scienceqa-test-step0.md").read_text() for name in ("stopped", "whole")]
    assert reports[0] == reports[1]

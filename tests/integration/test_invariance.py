"""Guards: a setting under which numbers depend on ranks or accumulation, and a `verify` that does not say so.

Of most tests, runs of one rank are part of this process, and nothing is imported again; one starts all of them as a
user's command does.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from llava_pl.app.verify import invariance_runs
from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE

NUM_RECORDS = 17
"""Two steps of eight; an odd number, so that ranks would fill up an epoch."""

ANSWERS = ("a", "abcdefgh", "ab" * 12, "c", "defg")


@pytest.fixture
def root(tmp_path, tiny_model, monkeypatch):
    """A folder with records, some with pictures, and a configuration of two steps."""
    rng, records = np.random.default_rng(0), []
    for number in range(NUM_RECORDS):
        turns = [{"from": "human", "value": f"Q{number}?"}, {"from": "gpt", "value": ANSWERS[number % len(ANSWERS)]}]
        records.append({"id": "same", "conversations": turns})
        if number % 3 == 0:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
            records[-1]["image"] = f"{number}.png"
            turns[0]["value"] = f"<image>\nQ{number}?"
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "val.json").write_text(json.dumps(records[:7]))
    data = {"records": "records.json", "val_records": "val.json", "image_folder": ".", "batch_size": 2}
    config = {
        "model": {**tiny_model, "optim": {"learning_rate": 1e-3}},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": {**data, "num_workers": 0}},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "devices": 1, "accumulate_grad_batches": 4},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")  # so that it is taken back
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start = invariance_runs._launch

    def launch(words, output):
        settings = yaml.safe_load(Path(words[-1]).read_text())
        return main(words) if settings["trainer"]["devices"] == 1 else start(words, output)

    monkeypatch.setattr(invariance_runs, "_launch", launch)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(num_threads)


def verify(*words: str, strategy: str = "ddp") -> tuple[int, dict]:
    """Return the exit status, and what was written as JSON."""
    words = ("--config", "config.yaml", "--trainer.strategy", strategy, "--json", "found.json", *words)
    status = main(["verify", "invariance", *words])
    return status, json.loads(Path("found.json").read_text())


def differences(found: dict) -> list[dict[str, float]]:
    return [{name: row["difference"] for name, row in each["largest"].items()} for each in found["comparisons"]]


def assert_invariant(status: int, found: dict, tolerance: float = 1e-6) -> None:
    assert (status, found["is_invariant"], found["num_steps"]) == (0, True, 2)
    two_ranks, small_micro_batches = differences(found)
    for values in (two_ranks, small_micro_batches):
        assert values.keys() >= {"order", "loss", "gradient norm", "weights", "validation"}
        # Measured: 2e-7. Another order of samples, or a mean of means, differs by 1e-3 and more.
        assert max(values.values()) < tolerance


LORA = ("--model.trainable.projector", "full", "--model.trainable.decoder", "lora", "--model.lora.rank", "4")


@pytest.mark.parametrize(
    "words",
    [
        (*LORA, "--data.is_packed", "true"),
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(("--model.stage", "align"), marks=pytest.mark.slow),
        pytest.param(("--data.grouping", "balanced"), marks=pytest.mark.slow),
        pytest.param(("--data.grouping", "length"), marks=pytest.mark.slow),
        pytest.param(("--data.grouping", "modality_length"), marks=pytest.mark.slow),
        pytest.param(("--model.projector", "qformer"), marks=pytest.mark.slow),
        pytest.param(("--trainer.precision", "64-true"), marks=pytest.mark.slow),
        pytest.param(("--model.decoder.gradient_checkpointing", "full"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_ranks_and_accumulation_change_nothing(root, words):
    assert_invariant(*verify(*words))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_is_judged_by_what_it_can(root, precision):
    status, found = verify("--trainer.precision", precision)
    assert_invariant(status, found, found["tolerance"])


def write_scienceqa(root: Path) -> tuple[str, ...]:
    """Write sixteen problems to learn from and seven to be asked, some with a picture; return the options for them."""
    texts = ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
    problems = {
        str(number): dict.fromkeys(texts, "")
        | {"question": "Is it odd?" * (1 + number % 3), "choices": ["yes", "no"], "answer": number % 2}
        | {"split": "train" if number < 16 else "val", "image": "image.png" if number % 3 == 0 else None}
        for number in range(23)
    }
    for number, problem in problems.items():
        if problem["image"]:
            place = root / "images" / problem["split"] / number / "image.png"
            place.parent.mkdir(parents=True)
            place.write_bytes((root / "0.png").read_bytes())
    splits = {"train": list(map(str, range(16))), "val": list(map(str, range(16, 23))), "test": []}
    (root / "problems.json").write_text(json.dumps(problems))
    (root / "pid_splits.json").write_text(json.dumps(splits))
    return ("--data", "ScienceQADataModule", "--data.root", ".", "--model.generation.max_new_tokens", "5")


@pytest.mark.slow
def test_generated_answers_are_the_same(root):
    """Of seven questions the first four: batches of two, because ranks would not get equally many of three."""
    words = write_scienceqa(root)
    status, found = verify(*words, "--val_samples", "4", "--data.batch_size", "2", "--data.eval_batch_size", "3")
    assert_invariant(status, found)
    answered = [each["largest"]["answers"]["values"] for each in found["comparisons"]]
    assert (found["num_validated"], answered) == (4, ["4 equal", "4 equal"])


@pytest.mark.slow
def test_a_mean_of_means_is_told(root, capsys):
    status, found = verify("--model.loss_normalization", "micro_batch", "--steps", "2")
    assert (status, found["is_invariant"]) == (1, False)
    assert [row["order"] for row in differences(found)] == [0.0, 0.0]
    for each, row in zip(found["comparisons"], differences(found), strict=True):
        first = each["first_beyond"]
        assert (first["quantity"], first["place"]) == ("loss", "step 0")
        assert row["loss"] > 1e-3  # measured: 3e-3, with answers of one to two dozen characters
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("note: model.loss_normalization micro_batch is a mean") for line in lines)
    assert sum(" differs first in loss, step 0, " in line for line in lines) == 2
    assert not list(root.glob("runs/verify/*/*/checkpoints"))
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["verify"]


@pytest.mark.slow
def test_as_a_user_types_it(root):
    """Fresh processes, and the strategy of the configuration."""
    strategy = Path(__file__).parents[2] / "configs" / "strategy" / "ddp.yaml"
    words = ["verify", "invariance", "--config", "config.yaml", "--config", str(strategy), "--out", "out"]
    with Path("output.txt").open("w") as file:
        command = [sys.executable, "-m", "llava_pl", *words, "--json", "found.json"]
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=200, check=False).returncode
    assert_invariant(status, json.loads(Path("found.json").read_text()))
    assert "run 2 of 3: 2 ranks x 2 x 2 ... " in Path("output.txt").read_text()
    assert (root / "out" / "2x2x2" / "ledger" / "rank-1.bin").exists()

"""Guards: the demo runs other commands than it shows, or ends without what it promises."""

import json
from functools import partial

import pytest

from llava_pl.cli import main
from llava_pl.demo import run
from llava_pl.demo.questions import TOPICS


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    """The whole demo, real but for its size: a few pictures, a few steps."""
    folder, patch = tmp_path_factory.mktemp("demo"), pytest.MonkeyPatch()
    commands = []

    def run_briefly(words, lightning=run._run_lightning):
        commands.append(words)
        lightning([*words, *(["--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1"])])

    patch.setattr(run, "write_dataset", partial(run.write_dataset, num_pictures=64, num_held_out=8))
    patch.setattr(run, "make_parents", partial(run.make_parents, encoder_steps=2, decoder_steps=2))
    patch.setattr(run, "_run_lightning", run_briefly)
    try:
        scores = run.run_demo(folder, seed=3)
    finally:
        patch.undo()
    return folder, scores, commands


def test_it_trains_both_stages_and_validates_around_them(small_demo):
    folder, _, commands = small_demo
    assert [words[0] for words in commands] == ["validate", "fit", "validate", "fit", "validate"]
    assert commands[3][-2:] == ["--model.init_from", str(folder / "align" / "checkpoints" / "last.ckpt")]
    assert all(words[words.index("--seed_everything") + 1] == "3" for words in commands)


def test_accuracy_of_each_stage_image_and_kind(small_demo):
    folder, scores, _ = small_demo
    stages, images = ("text only", "aligned", "finetuned"), ("own", "other", "grey", "none")
    assert list(scores) == [f"{stage}, {image} image" for stage in stages for image in images]
    assert all(list(row) == ["all", *TOPICS] for row in scores.values())
    assert json.loads((folder / "accuracy.json").read_text()) == scores


def test_pictures_are_written(small_demo):
    folder, _, _ = small_demo
    for name in ("learning_curves.png", "samples.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_runs_of_an_earlier_demo_are_moved_aside(tmp_path, monkeypatch):
    for name in ("write_dataset", "make_parents", "write_report"):
        monkeypatch.setattr(run, name, lambda *_, **__: None)
    monkeypatch.setattr(run, "_run_lightning", lambda words: made(tmp_path / words[words.index("--run_dir") + 1]))

    def made(run_dir):
        run_dir.mkdir(exist_ok=run_dir.name.startswith("validate"))

    for _ in range(2):
        run.run_demo(tmp_path, seed=0)
    assert {path.name for path in tmp_path.iterdir()} >= {"align", "align-1", "finetune", "finetune-1"}


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--help"])
    assert stop.value.code == 0
    assert "runs/demo" in capsys.readouterr().out


def test_outside_of_the_repository_it_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "CONFIGS", tmp_path / "configs")
    assert main(["demo"]) == 2
    assert "run the demo from a checkout" in capsys.readouterr().err

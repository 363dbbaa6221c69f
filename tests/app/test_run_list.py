"""Guards: a list that says another state, step or way to go on than the folder holds, or that one bad folder ends."""

import os
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pl.app.run_list import describe_run, find_runs, is_run, once
from llava_pl.run_state import new_state, write_state

LOG = "epoch,step,train/loss,val/loss,val/scienceqa/accuracy\n0,9,2.5,,\n0,19,1.5,,\n0,19,,1.75,40.0\n"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make the folder of a run that trains, with a log to step 20; None for a run that has said nothing of itself."""
    monkeypatch.chdir(tmp_path)

    def make(name, status="running", saved=0, log=LOG, **changes):
        folder = Path("runs") / "a" / name
        folder.mkdir(parents=True)
        (folder / "ledger").mkdir()
        (folder / "metrics.csv").write_text(log)
        if status is not None:
            state = new_state("fit", ["fit", "--config", "a.yaml"], folder, "align")
            write_state(folder, replace(state, status=status, total_steps=100, **changes))
        if saved:
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / f"step={saved}.ckpt").write_bytes(b"x" * 1000)
            (folder / "checkpoints" / "last.ckpt").symlink_to(f"step={saved}.ckpt")
        return folder

    return make


def test_a_running_run(make):
    run = describe_run(make("1", saved=10))
    assert (run.command, run.stage, run.state, run.step, run.total_steps) == ("fit", "align", "running", 20, 100)
    assert run.metrics == {"train/loss": 1.5, "val/loss": 1.75, "val/scienceqa/accuracy": 40.0}
    assert (run.resume, run.damage, run.has_checkpoint) == (None, (), True)
    assert run.num_bytes == 1000 + len(LOG) + (run.folder / "state.json").stat().st_size


@pytest.mark.parametrize(
    ("changes", "state"),
    [({"status": "interrupted"}, "interrupted"), ({"status": "failed"}, "failed"), ({"process_started": 0.0}, "killed"),
     ({"host": "elsewhere"}, "unknown")],
)  # fmt: skip
def test_a_run_that_can_go_on_says_how(make, tmp_path, changes, state):
    run = describe_run(make("1", saved=10, **changes))
    assert run.state == state
    assert run.resume == "llava-pl fit --config a.yaml --run_dir runs/a/1 --ckpt_path last"
    os.chdir("runs")
    assert describe_run(Path("a/1")).resume == (
        f"cd {tmp_path} && llava-pl fit --config a.yaml --run_dir runs/a/1 --ckpt_path last"
    )


def test_a_run_goes_on_with_its_launcher(make):
    run = describe_run(make("1", "failed", saved=10, launcher=["srun", "--ntasks", "8"]))
    assert run.resume == "srun --ntasks 8 llava-pl fit --config a.yaml --run_dir runs/a/1 --ckpt_path last"


def test_a_run_on_another_machine_names_it(make):
    run = describe_run(make("1", host="elsewhere"))
    assert (run.state, run.reason) == ("unknown", "it runs or was killed on elsewhere, where this can be told")


def test_a_folder_that_was_moved_is_named_where_it_is(make, tmp_path):
    make("1", "failed", saved=10).rename("moved")
    words = shlex.split(describe_run(Path("moved")).resume)
    assert words[words.index("--run_dir") + 1] == str(tmp_path / "moved")


def test_a_copy_of_a_run_at_work_says_so_and_can_go_on(make, tmp_path):
    shutil.copytree(make("1", saved=10), "copy")
    run = describe_run(Path("copy"))
    assert (run.state, run.reason) == ("unknown", f"a copy of {tmp_path}/runs/a/1, where the run is at work")
    assert run.resume == f"llava-pl fit --config a.yaml --run_dir {tmp_path}/copy --ckpt_path last"


@pytest.mark.parametrize(("status", "saved"), [("finished", 100), ("failed", 0)])
def test_a_run_that_is_done_or_has_no_checkpoint_does_not_go_on(make, status, saved):
    assert describe_run(make("1", status, saved)).resume is None


def test_the_step_is_the_furthest_that_is_written_down(make):
    assert describe_run(make("1", saved=30)).step == 30
    assert describe_run(make("2", "interrupted", saved=30, step=31)).step == 31


def test_a_run_of_an_older_version(make):
    folder = make("1", None, saved=10)
    text = "seed_everything: 0\ntrainer:\n  max_steps: {}\nmodel:\n  stage: finetune\n"
    (folder / "config.yaml").write_text(text.format(100))
    run = describe_run(folder)
    assert (run.command, run.stage, run.state, run.step, run.total_steps) == ("fit", "finetune", "unknown", 20, 100)
    assert run.resume == "llava-pl fit --config runs/a/1/config.yaml --run_dir runs/a/1 --ckpt_path last"
    (folder / "config.yaml").write_text(text.format(20))
    assert describe_run(folder).state == "finished"


def test_an_evaluation(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val/scienceqa/accuracy\n0,40.0\n")
    run = describe_run(tmp_path)
    assert (run.command, run.state, run.step, run.resume) == (None, "finished", None, None)
    write_state(tmp_path, replace(new_state("validate", ["validate"], tmp_path, "align"), status="failed"))
    run = describe_run(tmp_path)
    assert (run.command, run.state, run.step, run.resume) == ("validate", "failed", None, None)


def test_the_newest_run_comes_first(make):
    for name, started in (("b", 20.0), ("c", 30.0), ("a", 10.0)):
        make(name, started=started)
    Path("runs/wandb/offline-run-1/files").mkdir(parents=True)
    Path("runs/a/.hidden").mkdir()
    assert [run.folder.name for run in find_runs(Path("runs"))] == ["c", "b", "a"]
    assert [run.folder for run in find_runs(Path("runs/a/b"))] == [Path("runs/a/b")]
    assert find_runs(Path("nowhere")) == []
    assert not is_run(Path("runs"))


def test_a_run_is_listed_once_however_many_ways_lead_to_it(make):
    make("1")
    Path("runs/0").symlink_to("a")
    Path("runs/a/0").symlink_to("..")
    Path("runs/a/itself").symlink_to("itself")
    Path("latest").symlink_to("runs/a/1")
    assert once([Path("runs/a/itself"), Path("runs/a/itself")]) == [Path("runs/a/itself")]
    assert [run.folder for run in find_runs(Path("runs"), Path("runs"), Path("latest"))] == [Path("runs/a/1")]
    assert [run.folder for run in find_runs(Path("latest"))] == [Path("latest")]


def test_damage_is_told_and_the_rest_is_shown(make):
    folder = make("1", saved=10, log="no log")
    (folder / "state.json").write_text("{")
    run = describe_run(folder)
    assert (run.state, run.step, run.metrics) == ("unknown", 10, {})
    assert [line.partition(":")[0] for line in run.damage] == ["runs/a/1/state.json", "runs/a/1/metrics.csv"]


def test_a_damaged_state_hides_no_other_run(make):
    make("1", "finished")
    path = make("2") / "state.json"
    path.write_text(path.read_text().replace('"step": null', '"step": "x"'))
    assert {run.folder.name: (run.state, len(run.damage)) for run in find_runs(Path("runs"))} == {
        "1": ("finished", 0), "2": ("unknown", 1)
    }  # fmt: skip


def test_when_it_was_written(make):
    folder = make("1", saved=10, log=LOG)
    for path in (folder / "metrics.csv", folder / "state.json"):
        os.utime(path, (0, 1000))
    os.utime(folder / "checkpoints" / "step=10.ckpt", (0, 2000))
    assert describe_run(folder).written == 2000
    assert describe_run(folder).started == pytest.approx(time.time(), abs=60)

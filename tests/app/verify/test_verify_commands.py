"""Guards: a verification that ends with 0 on a difference, leaves gigabytes behind, or writes over other files."""

import json

import pytest

from llava_pl.app.verify import invariance, invariance_plan, invariance_runs
from llava_pl.app.verify.invariance import Comparison, Finding
from llava_pl.app.verify.invariance_plan import InvariancePlan
from llava_pl.app.verify.invariance_splits import Split, Validation
from llava_pl.app.verify.verify_commands import HELP
from llava_pl.cli import main
from llava_pl.types import InputError

SPLITS = (Split(1, 2, 4), Split(2, 1, 4))
PLAN = InvariancePlan(SPLITS, 4, Validation(7, 4), 1e-5, "float32", ("dropout is off",), {})


def error_of(capsys, words):
    assert main(["verify", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("words", "status"), [([], 2), (["-h"], 0), (["--help"], 0)])
def test_help(capsys, words, status):
    assert main(["verify", *words]) == status
    assert capsys.readouterr().out == HELP


def test_unknown_command(capsys):
    assert error_of(capsys, ["speed"]) == "llava-pl: error: verify: unknown command 'speed'; expected invariance"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--ranks", "0"], "argument --ranks: expected at least 1, found 0"),
        (["--steps", "1"], "argument --steps: expected at least 2, found 1"),
        (["--steps", "many"], "argument --steps: expected a whole number, found many"),
        (["--tolerance", "2"], "argument --tolerance: expected a number from 0 to 1, found 2"),
        (["--tolerance", "nan"], "argument --tolerance: expected a number from 0 to 1, found nan"),
        (["--tolerance", "low"], "argument --tolerance: expected a number from 0 to 1, found low"),
    ],
)
def test_numbers_that_mean_nothing(capsys, words, line):
    with pytest.raises(SystemExit, match="2"):
        main(["verify", "invariance", *words])
    assert capsys.readouterr().err == f"llava-pl: error: {line}\n"


def test_places_that_are_taken_are_told_before_the_work(capsys, tmp_path):
    (tmp_path / "mine.txt").touch()
    for place in (tmp_path, tmp_path / "mine.txt"):
        expected = f"llava-pl: error: --out: {place}: expected a new or empty folder, found another; choose a new name"
        assert error_of(capsys, ["invariance", "--out", str(place)]) == expected
    expected = f"llava-pl: error: --json: {tmp_path}: expected a file in a folder that exists, found a folder"
    assert error_of(capsys, ["invariance", "--json", str(tmp_path)]) == expected
    (tmp_path / "mine.json").write_text('{"own": 1}')
    expected = (
        f"llava-pl: error: --json: {tmp_path / 'mine.json'}: expected a new file or an earlier table, found another "
        "file; choose another name"
    )
    assert error_of(capsys, ["invariance", "--json", str(tmp_path / "mine.json")]) == expected


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A workspace, in which runs leave a checkpoint and a log; a loss differs as much as it is told."""
    found = {"difference": 0.0, "seen": []}

    def run_split(words, plan, split, workspace):
        found["seen"].append((list(words), split, sorted(path.parent.name for path in workspace.glob("*/checkpoints"))))
        if split == found.get("fails"):
            (workspace / split.folder / "checkpoints").mkdir(parents=True)
            raise InputError("verify: the run ended")
        (workspace / split.folder / "checkpoints").mkdir(parents=True)
        (workspace / split.folder / "metrics.csv").touch()
        return workspace / split.folder

    def compare(split, reference, other):
        return Comparison(split, (Finding("loss", "step 0", found["difference"], "4 on one rank, 5 here"),))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(invariance_plan, "plan_invariance", lambda words, **options: PLAN)
    monkeypatch.setattr(invariance_runs, "run_split", run_split)
    monkeypatch.setattr(invariance, "read_run", lambda run_dir, num_ranks: run_dir)
    monkeypatch.setattr(invariance, "compare", compare)
    return found


@pytest.mark.parametrize(("difference", "status"), [(1e-6, 0), (1e-4, 1)])
def test_status_table_and_what_is_left(runs, tmp_path, capsys, difference, status):
    runs["difference"] = difference
    words = ["--config", "a.yaml", "--out", "out", "--json", "a.json"]
    for _ in range(2):  # the table is written anew
        assert main(["verify", "invariance", *words]) == status
        words[3] = "again"
    assert [seen[:2] for seen in runs["seen"][:2]] == [(["--config", "a.yaml"], split) for split in SPLITS]
    assert json.loads((tmp_path / "a.json").read_text())["is_invariant"] is (status == 0)
    # Checkpoints may be large; all else stays.
    assert sorted(path.name for path in (tmp_path / "out").glob("*/*")) == ["metrics.csv"] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note: dropout is off"
    assert lines[1].startswith("run 1 of 2: 1 rank x 2 x 4 ... ")
    assert lines[2].startswith("run 2 of 2: 2 ranks x 1 x 4 ... ")
    assert "logs, ledgers and answers of the runs are in out" in lines


def test_a_failing_run_leaves_no_checkpoints(runs, tmp_path, capsys):
    runs["fails"] = SPLITS[1]
    assert error_of(capsys, ["invariance", "--out", "out"]) == "llava-pl: error: verify: the run ended"
    assert not list((tmp_path / "out").glob("*/checkpoints"))


def test_the_default_place_is_one_of_its_own(runs, tmp_path):
    assert main(["verify", "invariance"]) == 0
    [folder] = (tmp_path / "runs" / "verify").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["1x2x4", "2x1x4"]

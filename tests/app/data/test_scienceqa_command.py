"""Guards `llava-pl data scienceqa`: which files it writes, and what it says of wrong folders."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_pl.cli import main

PROBLEM = {
    "question": "Which?", "choices": ["a", "b"], "answer": 0, "image": None, "hint": "", "task": "closed choice",
    "grade": "grade2", "subject": "natural science", "topic": "biology", "category": "c", "skill": "s", "lecture": "",
    "solution": "", "split": "test",
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "official"
    folder.mkdir()
    (folder / "problems.json").write_text(json.dumps({"1": PROBLEM, "2": PROBLEM}))
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["1", "2"], "minitest": ["2"]}))
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all_splits(root, tmp_path, capsys):
    assert main(["data", "scienceqa", str(root), str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out") == ["llava_minitest_QCM-LEA.json", "llava_test_QCM-LEA.json"]
    assert capsys.readouterr().out.count("wrote ") == 2


def test_chosen_splits_and_formats(root, tmp_path):
    words = ["--split", "test", "--prompt_format", "QCM-A", "--prompt_format", "CQM-A"]
    assert main(["data", "scienceqa", str(root), str(tmp_path / "out"), *words]) == 0
    assert names(tmp_path / "out") == ["llava_test_CQM-A.json", "llava_test_QCM-A.json"]


def test_parquet(tmp_path, capsys):
    (tmp_path / "hub").mkdir()
    rows = [{name: value for name, value in PROBLEM.items() if name != "split"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / "test-00000-of-00001.parquet")
    assert main(["data", "scienceqa", str(tmp_path / "hub"), str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out") == ["llava_test_QCM-LEA.json", "pid_splits.json", "problems.json"]
    assert "test: 1 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{root}/none", "{root}/out"], "expected a folder, found nothing"),
        (["{root}/problems.json", "{root}/out"], "expected a folder, found a file"),
        (["{root}", "{root}/out", "--split", "holdout"], "unknown split 'holdout'"),
        (["{root}", "{root}/out", "--prompt_format", "QMC-A"], "prompt_format: expected one of"),
    ],
)
def test_wrong_input_gets_one_line(root, capsys, words, message):
    assert main(["data", "scienceqa", *(word.format(root=root) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

"""Guards `llava-pl eval judge`: scores of both ensembles, offline from files, and the same again."""

import json
from pathlib import Path

import pytest

from llava_pl.cli import main
from llava_pl.evaluation.answers import find_header, read_answers

PROBLEM = {
    "question": "Which?", "hint": "", "task": "closed choice", "grade": "grade2", "subject": "natural science",
    "topic": "biology", "category": "c", "skill": "s", "lecture": "", "solution": "", "split": "test", "image": None,
    "choices": ["a", "b"],
}  # fmt: skip
MODEL = "AABBA"  # all should be A: right, right, wrong, wrong, right
TEACHER = "ABAxB"
JUDGE = {"1": "B", "2": "A", "4": "A"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    problems = {str(n): {**PROBLEM, "answer": 0} for n in range(5)}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    answers = {"answers": dict(enumerate(MODEL)), "teacher": dict(enumerate(TEACHER)), "judge": JUDGE}
    for name, letters in answers.items():
        rows = [{"question_id": str(n), "text": f"The answer is {a}."} for n, a in letters.items()]
        rows[-1]["metadata"] = {"answers": {"template": "vicuna_v1"}}
        rows[0]["credit"] = 1.0
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"root": str(tmp_path), **{name: str(tmp_path / f"{name}.jsonl") for name in answers}}


def run(files: dict[str, str], *words: str) -> int:
    return main(["eval", "judge", *(word for name, path in files.items() for word in (f"--{name}", path)), *words])


def test_both_ensembles(files, tmp_path, capsys):
    assert run(files, "--output", str(tmp_path / "out.jsonl"), "--json", str(tmp_path / "out.json")) == 0
    shown = capsys.readouterr().out
    scores = {
        label: each["scores"]["accuracy"]["value"]
        for label, each in json.loads((tmp_path / "out.json").read_text()).items()
    }
    # complement: A B A (model: B) B; judge: A B A (undecided, model: B) A
    assert scores == {"model": 60.0, "teacher": 40.0, "complement": 40.0, "judge": 60.0}
    assert "the two differ on 4 questions, of which 3 were judged" in shown
    rows = read_answers(tmp_path / "out.jsonl")
    assert [row["text"][-2] for row in rows] == ["A", "B", "A", "B", "A"]
    assert find_header(rows)["answers"]["ensemble"] == [files["answers"], files["teacher"], files["judge"]]
    assert find_header(rows)["answers"]["task"] == "scienceqa"
    # Nothing of the files that they are from: heads, and what became of other answers.
    keys = [set(json.loads(line)) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    plain = {"question_id", "prompt", "text"}
    assert keys == [plain | {"metadata"}, *[plain] * 4]


def test_what_is_missing_is_asked_for(files, teacher_server, tmp_path, capsys):
    Path(files["judge"]).unlink()
    assert run(files, "--endpoint", teacher_server.url, "--model", "tiny", "--json", str(tmp_path / "out.json")) == 0
    assert len(teacher_server.prompts) == 4
    assert json.loads((tmp_path / "out.json").read_text())["judge"]["scores"]["accuracy"]["value"] == 100.0
    assert run(files, "--json", str(tmp_path / "again.json")) == 0
    assert (tmp_path / "again.json").read_text() == (tmp_path / "out.json").read_text()
    assert len(teacher_server.prompts) == 4
    assert "a-key-that-nobody-may-see" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"judge": "{root}/none.jsonl"}, [], "--judge: "),
        ({"teacher": "{root}/none.jsonl"}, [], "--teacher: "),
        ({}, ["--endpoint", "http://x"], "--endpoint: expected together with --model"),
        ({"answers": "{root}/none.jsonl"}, [], "none.jsonl: cannot be read"),
        ({"judge": "{root}/teacher.jsonl"}, [], "expected three files, found one of them twice"),
        ({"judge": "{root}/answers.jsonl"}, [], "expected three files, found one of them twice"),
        ({"answers": "{root}/empty.jsonl"}, [], "empty.jsonl: expected answers, found none"),
        ({}, ["--json", "{root}/problems.json"], "--json: "),
        (
            {},
            ["--endpoint", "http://x", "--model", "x", "--num_at_once", "0"],
            "--num_at_once: expected at least 1 and",
        ),
        ({}, ["--output", "{root}/answers.jsonl"], "--output: "),
    ],
)
def test_wrong_input_gets_one_line(files, capsys, changes, words, message):
    (Path(files["root"]) / "empty.jsonl").touch()
    changed = files | {name: path.format(root=files["root"]) for name, path in changes.items()}
    assert run(changed, *(word.format(root=files["root"]) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

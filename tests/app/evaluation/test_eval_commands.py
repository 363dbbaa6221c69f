"""Guards `llava-pl eval`: a table that is of other answers than it says, or takes seconds because torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pl.cli import main

PROBLEM = {
    "question": "Which?", "hint": "", "task": "closed choice", "grade": "grade2", "subject": "natural science",
    "topic": "biology", "category": "c", "skill": "s", "lecture": "", "solution": "", "split": "test",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    problems = {
        str(n): {**PROBLEM, "choices": ["a", "b"], "answer": n % 2, "image": "image.png" if n < 4 else None}
        for n in range(10)
    }
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems), "minitest": ["1", "3"]}))
    return tmp_path


def write_answers(path: Path, letters: str) -> str:
    rows = [
        {"question_id": str(n), "prompt": "?", "text": f"The answer is {letter}."} for n, letter in enumerate(letters)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(root: Path, *words: str) -> int:
    return main(["eval", "scienceqa", "--root", str(root), *words])


def test_table_files_and_status(root, capsys):
    answers = write_answers(root / "mine.jsonl", "ABABABABAA")
    outputs = {kind: root / f"report.{kind}" for kind in ("markdown", "html", "json")}
    words = [word for kind, path in outputs.items() for word in (f"--{kind}", str(path))]
    assert run(root, "--answers", answers, *words) == 0
    shown = capsys.readouterr().out
    assert "ScienceQA, split test, parser llava" in shown
    assert "90.00 (57.14 to 100.00)" in shown
    assert "The official table" in shown
    assert "mine: the same answers by each parser" in shown
    assert "| all | 10 | 90.00 (57.14 to 100.00) |" in outputs["markdown"].read_text()
    assert "(the picture cannot be shown)" in outputs["html"].read_text()
    content = json.loads(outputs["json"].read_text())["mine"]
    assert content["scores"]["accuracy"] == {"value": 90.0, "interval": [pytest.approx(800 / 14), 100.0], "count": 10}
    assert content["questions"]["9"] == {"read": "A", "credit": 0.0}
    assert (content["unparsed"], content["unanswered"], content["header"]) == ([], [], {})


def test_two_files_and_another_split(root, capsys):
    first = write_answers(root / "a.jsonl", "AAAAAAAAAA")
    results = root / "b.json"
    results.write_text(json.dumps({"results": {"1": 1, "3": 1}}))
    assert run(root, "--answers", first, "--answers", str(results), "--split", "minitest") == 0
    shown = capsys.readouterr().out
    assert "Difference of mean credit to a, question by question" in shown
    assert "+100.00" in shown
    assert "stored" in shown


def test_answers_that_were_asked_otherwise_or_of_other_questions(root, capsys):
    path = root / "a.jsonl"
    write_answers(path, "A" * 12)
    first, *others = path.read_text().splitlines()
    made_with = {"metadata": {"answers": {"task": "scienceqa", "prompt_format": "CQM-A"}}}
    path.write_text("\n".join([json.dumps(json.loads(first) | made_with), *others]))
    assert run(root, "--answers", str(path)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "a: its questions were asked otherwise than they are scored: prompt_format: 'CQM-A' and 'QCM-LEA'" in shown
    assert "a: 2 of its answers are to other questions than those that are scored" in shown


def test_answers_of_two_runs_in_one_file(root, capsys):
    path = root / "a.jsonl"
    write_answers(path, "A" * 10)
    lines = path.read_text().splitlines()
    heads = [json.loads(lines[0]) | {"metadata": {"answers": {"step": step}}} for step in (1, 2)]
    path.write_text("\n".join([json.dumps(heads[0]), *lines[1:], json.dumps(heads[1]), *lines[1:]]))
    assert run(root, "--answers", str(path)) == 2
    assert "expected the answers of one run, found several heads" in capsys.readouterr().err


def test_answers_to_a_split_score_one_that_it_holds(root, capsys):
    path = root / "a.jsonl"
    write_answers(path, "A" * 10)
    first, *others = path.read_text().splitlines()
    made_with = {"metadata": {"answers": {"task": "scienceqa", "split": "test"}}}
    path.write_text("\n".join([json.dumps(json.loads(first) | made_with), *others]))
    assert run(root, "--answers", str(path), "--split", "minitest") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "a: 8 of its answers are to other questions" in shown
    assert "asked otherwise" not in shown


def test_files_of_one_name_keep_their_paths(root, capsys):
    (root / "x").mkdir()
    first, second = write_answers(root / "a.jsonl", "A" * 10), write_answers(root / "x" / "a.jsonl", "B" * 10)
    assert run(root, "--answers", first, "--answers", second, "--json", str(root / "out.json")) == 0
    assert list(json.loads((root / "out.json").read_text())) == [first, second]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["popes"], "eval: no task 'popes'"),
        (["scienceqa", "--root", "{root}", "--answers", "{root}/none.jsonl"], "none.jsonl: cannot be read"),
        (["scienceqa", "--root", "{root}/none", "--answers", "{root}/a.jsonl"], "pid_splits.json: cannot be read"),
        (["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--split", "x"], "unknown split 'x'"),
        (["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--parser", "x"], "parser: expected one of"),
        (["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--html", "{root}/no/a.html"], "--html: "),
        (
            ["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--submission", "{root}/s"],
            "--submission: ",
        ),
        (["scienceqa", "--root", "{root}", "--answers", "{root}/empty.jsonl"], "expected answers, found none"),
        (
            ["scienceqa", "--root", "{root}", "--answers", "{root}/pope.jsonl"],
            "expected answers to scienceqa, found those to",
        ),
        (
            ["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--answers", "{root}/a.jsonl"],
            "--answers: expected each file once",
        ),
        (
            ["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--json", "{root}/a.jsonl"],
            "--json: {root}/a.jsonl: expected a file of its own",
        ),
        (
            ["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--examples", "-1"],
            "--examples: expected at",
        ),
        (
            ["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--json", "{root}/problems.json"],
            "--json: {root}/problems.json: expected a file",
        ),
        (["scienceqa", "--root", "{root}"], "answers"),
        (["scienceqa", "--answers", "{root}/a.jsonl"], "root"),
        (
            ["scienceqa", "--root", "{root}", "--answers", "{root}/a.jsonl", "--spilt", "x"],
            "no such option; did you mean split?",
        ),
    ],
)
def test_wrong_input_gets_one_line(root, capsys, words, message):
    write_answers(root / "a.jsonl", "A" * 10)
    (root / "empty.jsonl").write_text("")
    (root / "pope.jsonl").write_text('{"question_id": "1", "text": "yes", "metadata": {"answers": {"task": "pope"}}}')
    try:
        status = main(["eval", *(word.format(root=root) for word in words)])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert message.format(root=root) in error
    assert error.count("\n") == 1


def test_help(capsys):
    assert main(["eval", "--help"]) == 0
    assert "scienceqa, pope, mme" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["eval", "scienceqa", "--help"])
    assert stop.value.code == 0
    assert "--prompt_format" in capsys.readouterr().out


def test_neither_torch_nor_transformers_is_imported(root):
    answers = write_answers(root / "a.jsonl", "A" * 10)
    code = (
        "import sys; from llava_pl.cli import main; "
        f"status = main(['eval', 'scienceqa', '--root', {str(root)!r}, '--answers', {answers!r}, "
        f"'--html', {str(root / 'a.html')!r}]); "
        "print(status, sorted({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"

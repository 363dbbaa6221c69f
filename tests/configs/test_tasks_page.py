"""Guards docs/tasks.md and configs/task: a class or an argument that is not there any more."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from llava_pl.cli import main
from llava_pl.evaluation.benchmarks import TASKS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "tasks.md").read_text()


def test_the_task_of_the_page_scores_from_outside_the_package(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "captions.py").write_text(code)
    (tmp_path / "q.jsonl").write_text(
        '{"question_id": 1, "image": "a.jpg", "text": "Describe.", "thing": "cat"}\n'
        '{"question_id": 2, "image": "b.jpg", "text": "Describe.", "thing": "dog"}\n'
    )
    (tmp_path / "answers.jsonl").write_text(
        '{"question_id": 1, "text": "A Cat on a mat"}\n{"question_id": 2, "text": ""}\n'
    )
    (command,) = re.findall(r"^PYTHONPATH=\. llava-pl (eval captions.*)$", PAGE, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert main(command.split()) == 0
    finally:
        sys.modules.pop("captions", None)
    shown = capsys.readouterr().out
    assert "50.00 (16.67 to 83.33)" in shown
    assert "answers: 1 of 2 could not be read" in shown


def test_every_task_is_in_the_table():
    assert {
        name for row in re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    } == set(TASKS)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "task").glob("*.yaml")), ids=lambda path: path.stem)
def test_overlays_name_tasks_with_their_arguments(path):
    from llava_pl.evaluation.benchmarks import find_task

    settings = yaml.safe_load(path.read_text())
    assert settings["model"]["generation"]["max_new_tokens"] in (128, 1024)
    (task,) = settings["data"]["init_args"]["tasks"]
    found = find_task(task["class_path"])
    assert path.stem.replace("_", "-") == found.name
    assert isinstance(found(**task["init_args"]), found)
    assert f"--config configs/task/{path.name}" in path.read_text()

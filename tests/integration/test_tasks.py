"""Guards benchmarks inside a run: its scores are those of the answers that it leaves, whatever the batches."""

import json

import pytest
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE

OWN = '''
from llava_pl.evaluation.question_file import read_question_file
from llava_pl.evaluation.scores import judge, score_means
from llava_pl.evaluation.task import Task


class Lengths(Task):
    """Right is an answer of some words."""

    name = "lengths"

    def __init__(self, *, questions: str) -> None:
        self.file = questions

    def questions(self):
        return [question for question, _ in read_question_file(self.file)]

    def score(self, asked):
        return score_means(judge(asked, lambda text, _: text or None, lambda text, _: float(len(text.split()) > 1)))
'''
REQUEST = "Answer the question using a single word or phrase."


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Seven questions of POPE and four of MME about three pictures, and a task of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.effect_noise((20, 12 + number), 90).convert("RGB").save(tmp_path / "pictures" / f"{number}.png")

    def write(name, rows):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    pope = []
    for group, number in (("random", 3), ("popular", 2), ("adversarial", 2)):
        rows = [
            {"image": f"{n}.png", "text": f"Is there a {'big ' * n}dog?", "label": ("yes", "no")[n % 2]}
            for n in range(number)
        ]
        write(f"labels/coco_pope_{group}.json", rows)
        pope += [{"image": row["image"], "text": f"{row['text']}\n{REQUEST}", "category": group} for row in rows]
    write("pope.jsonl", [{"question_id": n, **row} for n, row in enumerate(pope)])
    mme = []
    for number in range(2):
        lines = [(f"Is {number} a dog?", "Yes"), (f"Is {number} a house of cards?", "No")]
        (tmp_path / "existence").mkdir(exist_ok=True)
        (tmp_path / "existence" / f"{number}.txt").write_text("".join(f"{q}\t{label}\n" for q, label in lines))
        name = f"existence/{number}.png"
        mme += [
            {"question_id": name, "image": f"{number}.png", "text": f"{q}\n{REQUEST}", "category": "existence"}
            for q, _ in lines
        ]
    write("mme.jsonl", mme)
    write("own.jsonl", [{"question_id": n, "text": f"What is {n}?"} for n in range(3)])
    (tmp_path / "own_task.py").write_text(OWN)
    return tmp_path


TASKS = [
    {
        "class_path": "llava_pl.evaluation.benchmarks.pope.Pope",
        "init_args": {"questions": "pope.jsonl", "annotations": "labels", "image_folder": "pictures"},
    },
    {
        "class_path": "llava_pl.evaluation.benchmarks.mme.Mme",
        "init_args": {"questions": "mme.jsonl", "annotations": ".", "image_folder": "pictures"},
    },
    {"class_path": "own_task.Lengths", "init_args": {"questions": "own.jsonl"}},
]


def test_tasks_of_a_run(files, tiny_model, capsys):
    model = {"stage": "finetune", "optim": {"learning_rate": 1e-3}, "generation": {"max_new_tokens": 9}}
    # What a run would learn from need not be there.
    data = {"records": "none.json", "image_folder": "pictures", "tasks": TASKS, "max_length": 900}
    settings = {
        "seed_everything": 1,
        "model": {**tiny_model, **model},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": data},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    (files / "config.yaml").write_text(yaml.safe_dump(settings))
    found = {}
    for batch_size, num_workers in ((1, 0), (3, 1)):
        folder = files / f"run{batch_size}"
        words = [f"--data.eval_batch_size={batch_size}", f"--data.num_workers={num_workers}", f"--run_dir={folder}"]
        assert main(["test", "--config", "config.yaml", *words]) == 0
        left = [*folder.glob("predictions/*"), *folder.glob("reports/*.md")]
        found[batch_size] = {path.name: path.read_text() for path in left}
    assert found[1] == found[3]
    assert sorted(found[1]) == [
        f"{task}-test-step0.{ending}" for task in ("lengths", "mme", "pope") for ending in ("jsonl", "md")
    ]

    capsys.readouterr()
    for task in TASKS:
        name = task["class_path"].rpartition(".")[2].lower()
        words = [word for option, value in task["init_args"].items() for word in (f"--{option}", value)]
        answers = files / "run1" / "predictions" / f"{name}-test-step0.jsonl"
        known = name if name != "lengths" else task["class_path"]
        assert main(["eval", known, *words, "--answers", str(answers), "--markdown", f"{name}.md"]) == 0
        # The same tables; what the answers are called and how the title ends is another thing.
        again, first = (files / f"{name}.md").read_text(), found[1][f"{name}-test-step0.md"]
        assert again.splitlines()[1:] == first.replace("own image", f"{name}-test-step0").splitlines()[1:]

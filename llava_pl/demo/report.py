"""What the demo ends with: a table of accuracies, the learning curves, and a sheet of questions with answers.

In: the folders that the commands have left. Out: ``learning_curves.png``, ``samples.png`` and ``accuracy.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from llava_pl.curves.figure import draw_panel
from llava_pl.curves.metrics import Metrics, read_metrics
from llava_pl.curves.panels import make_panels
from llava_pl.demo.questions import TOPICS
from llava_pl.evaluation.answers import read_answers
from llava_pl.evaluation.intervals import mean_interval
from llava_pl.evaluation.scienceqa import score_scienceqa
from llava_pl.evaluation.scores import in_percent

STAGES = {"start": "text only", "align": "aligned", "finetune": "finetuned"}
SOURCES = {"own": "", "other": "-other-image", "grey": "-grey-image", "none": "-none-image"}

Scores = dict[str, dict[str, float]]


def write_report(folder: Path) -> Scores:
    """Print the table, write the pictures, and return the accuracies in percent by row and question kind."""
    scores = read_scores(folder)
    (folder / "accuracy.json").write_text(json.dumps(scores, indent=2) + "\n")
    Console().print(make_table(scores, len(_read_scienceqa(folder)[1]["test"])))
    draw_learning_curves(folder, scores)
    draw_samples(folder)
    return scores


def read_scores(folder: Path) -> Scores:
    """Return the accuracies of all answer files, scored with the original's rule."""
    problems, splits = _read_scienceqa(folder)
    scores: Scores = {}
    for stage, title in STAGES.items():
        for source, ending in SOURCES.items():
            path = _answers_path(folder, stage, ending)
            table = score_scienceqa(problems, splits, read_answers(path))
            groups = ["all", *(f"topic:{topic}" for topic in TOPICS)]
            scores[f"{title}, {source} image"] = {
                name.removeprefix("topic:"): float(table[name]["accuracy"] or 0) for name in groups
            }
    return scores


def draw_learning_curves(folder: Path, scores: Scores) -> None:
    """Write ``learning_curves.png``: the loss of both stages, and the accuracy after each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, stage, title in zip(axes, ("align", "finetune"), ("stage align", "stage finetune"), strict=False):
        losses = read_metrics(folder / stage / "metrics.csv").points["train/loss"]
        draw_panel(axis, make_panels({"": Metrics({"train/loss": losses})})[0])
        axis.set(title=title, ylabel="loss per supervised token")
    names = list(STAGES.values())
    for source, colour in zip(SOURCES, ("#2a9d5c", "#d98c2b", "#8a8a8a", "#c0c0c0"), strict=True):
        values = [scores[f"{name}, {source} image"]["all"] for name in names]
        axes[2].plot(names, values, marker="o", color=colour, label=f"{source} image")
    axes[2].set(title="held-out accuracy, %", ylim=(0, 100))
    axes[2].legend(loc="upper left", fontsize=8)
    figure.savefig(folder / "learning_curves.png", dpi=130)


def draw_samples(folder: Path, *, rows: int = 3, columns: int = 4) -> None:
    """Write ``samples.png``: held-out pictures with question, the model's answer and, if that is wrong, the truth."""
    from matplotlib.figure import Figure
    from PIL import Image

    problems, splits = _read_scienceqa(folder)
    answers = {row["question_id"]: row["text"] for row in read_answers(_answers_path(folder, "finetune", ""))}
    figure = Figure(figsize=(3.1 * columns, 3.3 * rows), layout="constrained")
    # Spread over the test set: neighbours are of the same kinds.
    names = splits["test"][:: max(1, len(splits["test"]) // (rows * columns))]
    for axis, name in zip(figure.subplots(rows, columns).flat, names, strict=False):
        problem = problems[name]
        letter = "ABCDE"[problem["answer"]]
        is_right = bool(score_scienceqa(problems, {"test": [name]}, {name: answers[name]})["all"]["correct"])
        axis.imshow(Image.open(folder / "data" / "scienceqa" / "images" / "test" / name / problem["image"]))
        axis.set_axis_off()
        options = "  ".join(f"({'ABCDE'[i]}) {choice}" for i, choice in enumerate(problem["choices"]))
        axis.set_title(f"{problem['question']}\n{options}", fontsize=7)
        text = answers[name] + ("" if is_right else f"\n(right: {letter})")
        axis.text(0.5, -0.04, text, transform=axis.transAxes, ha="center", va="top", fontsize=8,
                  color="#1b7f3b" if is_right else "#b3261e")  # fmt: skip
    figure.savefig(folder / "samples.png", dpi=110)


def make_table(scores: Scores, num_questions: int) -> Table:
    """Return the accuracies, that of all questions with its interval.

    Args:
        scores: In percent, by row and question kind.
        num_questions: Of all kinds.
    """
    title = "held-out accuracy in percent, in brackets its 95 % interval"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("stage, picture shown")
    for name in ("all", *TOPICS):
        table.add_column(name, justify="right")
    for number, (row, values) in enumerate(scores.items(), start=1):
        num_right = round(values["all"] / 100 * num_questions)
        interval = mean_interval([1.0] * num_right + [0.0] * (num_questions - num_right))
        low, high = in_percent(interval) if interval else (0.0, 100.0)
        cells = (f"{values['all']:.1f} ({low:.1f} to {high:.1f})", *(f"{values[name]:.1f}" for name in TOPICS))
        table.add_row(row.removesuffix(" image"), *cells, end_section=number % len(SOURCES) == 0)
    return table


def _answers_path(folder: Path, stage: str, ending: str) -> Path:
    """Return the newest answer file of a stage; its name holds the step."""
    found = [
        path
        for path in (folder / f"validate_{stage}" / "predictions").glob(f"scienceqa-val-step*{ending}.jsonl")
        if path.stem.removeprefix("scienceqa-val-step").removesuffix(ending).isdigit()
    ]
    return max(found, key=lambda path: path.stat().st_mtime)


def _read_scienceqa(folder: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    root = folder / "data" / "scienceqa"
    return json.loads((root / "problems.json").read_text()), json.loads((root / "pid_splits.json").read_text())

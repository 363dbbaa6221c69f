"""`llava-pl demo`: the whole recipe of the paper in small, through the public command line.

Draws the data, makes the two pre-trained parts, then runs the commands that a user would type: `fit` of stage align,
`fit` of stage finetune, and `validate` before, between and after, and shows what came out.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llava_pl.demo.dataset import write_dataset
from llava_pl.demo.parents import make_parents
from llava_pl.demo.report import write_report

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "demo"


def run_demo(folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """Make data and parts, train both stages, validate after each, and return the accuracies.

    Args:
        folder: Where everything goes; data and parts that are there already are used again.
        seed: Of data, parts and training.

    Returns:
        Accuracy in percent by ``"{stage}, {image source} image"`` and question kind ("all" for all of them).
    """
    console, start = Console(), time.perf_counter()

    def say(text: str) -> None:
        console.print(f"\n[bold cyan]{time.perf_counter() - start:4.0f} s[/]  {text}", highlight=False)

    say(f"Drawing pictures and writing conversations to {folder / 'data'}")
    write_dataset(folder / "data", seed=seed)
    say(f"Making what LLaVA starts from, an encoder that sees and a decoder that reads, in {folder / 'parts'}")
    make_parents(folder / "parts", folder / "data", seed=seed)
    aligned, tuned = (str(folder / stage / "checkpoints" / "last.ckpt") for stage in ("align", "finetune"))
    plan = [
        ("Before training: the projector is random", "validate", "align", "start", []),
        ("Stage align: the projector alone learns", "fit", "align", "align", []),
        ("How well does the aligned model answer?", "validate", "align", "align", ["--ckpt_path", aligned]),
        (
            "Stage finetune: projector and decoder learn",
            "fit",
            "finetune",
            "finetune",
            ["--model.init_from", aligned],
        ),
        ("How well does the finetuned model answer?", "validate", "finetune", "finetune", ["--ckpt_path", tuned]),
    ]
    for title, command, config, name, extra in plan:
        run_dir = folder / (name if command == "fit" else f"validate_{name}")
        words = _command_line(folder, command, config, run_dir, seed, extra)
        if command == "fit" and run_dir.exists():
            _move_aside(run_dir)
        say(title)
        console.print(f"        $ llava-pl {shlex.join(words)}", style="dim", highlight=False, soft_wrap=True)
        _run_lightning(words)
    scores = write_report(folder)
    say(f"Done. Learning curves: {folder / 'learning_curves.png'}, questions and answers: {folder / 'samples.png'},")
    report = next((folder / "validate_finetune" / "reports").glob("*.html"), None)
    console.print(f"        all scores with their intervals: {report}", highlight=False, soft_wrap=True)
    return scores


def _command_line(folder: Path, command: str, config: str, run_dir: Path, seed: int, extra: Sequence[str]) -> list[str]:
    """Return the words of a command as a user would type them."""
    path = CONFIGS / f"{config}.yaml" if command == "fit" else CONFIGS / "validate.yaml"
    return [
        command,
        *("--config", _relative(CONFIGS / "model.yaml"), "--config", _relative(path)),
        *("--model.vision_encoder.path", str(folder / "parts" / "encoder")),
        *("--model.decoder.path", str(folder / "parts" / "decoder")),
        *_data_options(folder, command),
        *("--seed_everything", str(seed), "--run_dir", str(run_dir)),
        *extra,
    ]


def _data_options(folder: Path, command: str) -> list[str]:
    data = folder / "data"
    if command == "validate":
        return ["--data.root", str(data / "scienceqa")]
    options = ["--data.records", str(data / "instructions.json"), "--data.image_folder", str(data / "images")]
    return [*options, "--data.cache_dir", str(folder / "cache")]


def _relative(path: Path) -> str:
    """Return a path as seen from the current folder, if it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _run_lightning(words: list[str]) -> None:
    from llava_pl.lightning_cli import run_lightning  # not at the top: its imports take seconds

    run_lightning(words)


def _move_aside(run_dir: Path) -> None:
    """Give a run of an earlier demo another name: a new one starts in a folder without checkpoints."""
    from llava_pl.training.metrics_log import free_name  # as above

    run_dir.rename(free_name(run_dir))

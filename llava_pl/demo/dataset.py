"""The data folder of the demo: pictures, conversations, text to read, and a test set like ScienceQA's.

Third step of the demo: a seed comes in; files in the formats of the full-size recipe go out, so that the public
commands read them as they would read LLaVA's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_pl.demo.questions import (
    TOPICS,
    ShapeQuestion,
    Topic,
    ask,
    converse,
    converse_about_words,
    to_turns,
)
from llava_pl.demo.shapes import COLOURS, KINDS, Scene, draw, sample_scene
from llava_pl.progress import show_progress

Conversation = list[dict[str, str]]

LABELS = (*COLOURS, *KINDS, *(f"{colour} {kind}" for kind in KINDS for colour in COLOURS))
"""What a picture may hold, in the order of the columns of ``presence.npy``."""

_VERSION = 4  # raise it when the same arguments give other files
_QUESTIONS_PER_PICTURE = 2
_TRAINING_STREAM = 0
# Stream of chance, share of num_held_out, and whether the scenes are held out, by split.
_SPLITS = {"train": (1, 0.25, False), "val": (2, 0.25, True), "test": (3, 1.0, True)}


def write_dataset(
    folder: Path,
    *,
    num_pictures: int = 16_000,
    num_held_out: int = 250,
    topics: Sequence[Topic] = TOPICS,
    seed: int = 0,
) -> None:
    """Write the data of the demo, unless the same arguments have written it already.

    ``images/`` holds the training pictures, ``instructions.json`` LLaVA records about them,
    ``reading.json`` records without a picture, ``presence.npy`` which shapes each picture holds (bool ``(pictures,
    19)``, columns as in LABELS), and ``scienceqa/`` questions in the official layout: ``test`` and ``val`` about
    held-out scenes, a small ``train`` about others; their topic is the kind of question.

    Every picture has its own stream of chance, so fewer pictures are the first of more.

    Args:
        folder: Where to write; made if needed.
        num_pictures: Training pictures, each with one record in every JSON file.
        num_held_out: Pictures of the test split, two questions each; a quarter as many in ``val`` and ``train``.
        topics: What the questions ask for.
        seed: Of everything that is drawn.
    """
    manifest = folder / "manifest.json"
    arguments: dict[str, Any] = {
        "version": _VERSION,
        "num_pictures": num_pictures,
        "num_held_out": num_held_out,
        "seed": seed,
    }
    if tuple(topics) != TOPICS:
        arguments["topics"] = list(topics)
    if manifest.is_file() and json.loads(manifest.read_text()) == arguments:
        return
    manifest.unlink(missing_ok=True)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    _write_training(folder, num_pictures, topics, seed)
    _write_scienceqa(folder / "scienceqa", num_held_out, topics, seed)
    # Last, so that a folder left half-written is written again.
    manifest.write_text(json.dumps(arguments))


def read_pictures(folder: Path, num_pictures: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the first training pictures and which shapes they hold.

    Returns:
        uint8 ``(num_pictures, H, W, 3)`` and bool ``(num_pictures, 19)``; fewer rows if there are fewer pictures.
    """
    presence: NDArray[np.bool_] = np.load(folder / "presence.npy")[:num_pictures]
    pictures = [np.asarray(Image.open(folder / "images" / _picture_name(i))) for i in range(len(presence))]
    return np.stack(pictures), presence


def read_conversations(folder: Path) -> list[Conversation]:
    """Return the conversations of ``reading.json``: all of them text."""
    return [record["conversations"] for record in json.loads((folder / "reading.json").read_text())]


def sample_picture(
    seed: int, stream: int, index: int, *, held_out: bool
) -> tuple[Scene, NDArray[np.uint8], np.random.Generator]:
    """Return a scene, its picture, and the source of chance for the questions about it."""
    rng = np.random.default_rng([seed, stream, index])
    scene = sample_scene(rng, held_out=held_out)
    return scene, draw(scene, rng), rng


def _write_training(folder: Path, num_pictures: int, topics: Sequence[Topic], seed: int) -> None:
    files: dict[str, list[dict[str, Any]]] = {"instructions": [], "reading": []}
    presence = np.zeros((num_pictures, len(LABELS)), dtype=np.bool_)
    for i in show_progress(range(num_pictures), "Drawing"):
        scene, picture, rng = sample_picture(seed, _TRAINING_STREAM, i, held_out=False)
        held = {word for shape in scene.shapes for word in (shape.colour, shape.kind, shape.name)}
        presence[i] = [label in held for label in LABELS]
        name = _picture_name(i)
        _save(picture, folder / "images" / name)
        instructions = to_turns(converse(scene, rng, topics), has_picture=True)
        reading = to_turns(converse_about_words(scene, rng, topics), has_picture=False)
        files["instructions"].append({"id": f"instruction-{i}", "image": name, "conversations": instructions})
        files["reading"].append({"id": f"reading-{i}", "conversations": reading})
    for stem, records in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(records))
    np.save(folder / "presence.npy", presence)


def _write_scienceqa(folder: Path, num_held_out: int, topics: Sequence[Topic], seed: int) -> None:
    problems: dict[str, dict[str, Any]] = {}
    splits: dict[str, list[str]] = {}
    for split, (stream, share, held_out) in _SPLITS.items():
        # First the first question about every picture, then the second: the blindness test shows each question the
        # picture of the next one, which must be another.
        rounds: list[list[str]] = [[] for _ in range(_QUESTIONS_PER_PICTURE)]
        for i in range(round(share * num_held_out)):
            scene, picture, rng = sample_picture(seed, stream, i, held_out=held_out)
            for j in range(_QUESTIONS_PER_PICTURE):
                question = ask(scene, topics[(_QUESTIONS_PER_PICTURE * i + j) % len(topics)], rng)
                name = str(len(problems) + 1)
                problems[name] = _problem(question, split)
                rounds[j].append(name)
                path = folder / "images" / split / name / "image.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                _save(picture, path)
        splits[split] = [name for names in rounds for name in names]
    (folder / "problems.json").write_text(json.dumps(problems, indent=1))
    (folder / "pid_splits.json").write_text(json.dumps(splits))


def _problem(question: ShapeQuestion, split: str) -> dict[str, Any]:
    """An entry of ``problems.json`` with all the keys of the official one."""
    return {
        "question": question.text,
        "choices": list(question.choices),
        "answer": question.answer,
        "hint": "",
        "image": "image.png",
        "task": "yes or no" if question.topic == "existence" else "closed choice",
        "grade": "grade1",
        "subject": "natural science",
        "topic": question.topic,
        "category": "Shapes",
        "skill": f"Look at a picture: {question.topic}",
        "lecture": "",
        "solution": question.solution,
        "split": split,
    }


def _picture_name(index: int) -> str:
    return f"{index:05d}.png"


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    # Not compressed: writing 16,000 files is half the time of making the data.
    Image.fromarray(picture).save(path, compress_level=0)

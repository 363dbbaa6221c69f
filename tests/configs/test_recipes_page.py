"""Guards: a table of costs that the plan no longer says, on the page of recipes and in the notebook that trains.

The names of the experiments' models stand for folders with the sizes of the published ones.
"""

import json
import re
from pathlib import Path

import pytest

from llava_pl.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "recipes.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| ([\d.]+) GiB \| ([\d.]+) GiB \| ([\d,]+) \| ([\d.]+) \|", PAGE, re.MULTILINE)
FSDP2, DDP, SINGLE = (["--config", f"configs/strategy/{name}.yaml"] for name in ("fsdp2", "ddp", "single"))
NF4 = ["--model.decoder.quantization", "nf4"]
ONE = ["finetune_lora_7b", 665298, 800, *SINGLE, "--data.init_args.batch_size", "1"]
RECIPES = [  # in the order of the rows
    ["align_7b", 558128, 600],
    ["finetune_7b", 665298, 800, *FSDP2],
    ["finetune_lora_7b", 665298, 800],
    ["finetune_lora_7b", 665298, 800, *NF4],
    ["scienceqa_7b", 12726, 600, *FSDP2],
]
GIB = 2**30


@pytest.fixture
def plan(published, tmp_path, monkeypatch, capsys):
    """What `llava-pl plan` says of an experiment, as its JSON."""
    vision = json.loads((published / "encoder" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**vision, "image_size": 224}))
    monkeypatch.chdir(REPOSITORY)

    def plan(experiment, num_samples, mean_length, *words):
        encoder = tmp_path if experiment == "scienceqa_7b" else published / "encoder"
        parts = ["--model.vision_encoder.path", str(encoder), "--model.decoder.path", str(published / "7b")]
        counts = ["--num_samples", str(num_samples), "--mean_length", str(mean_length), "--json", "-"]
        main(["plan", "--config", f"configs/experiment/{experiment}.yaml", *words, *parts, *counts])
        return json.loads(capsys.readouterr().out)

    return plan


def test_every_row_is_told_apart():
    assert [row[0].partition(" ")[0].strip("`,") for row in ROWS] == [
        "align_7b", "finetune_7b", "finetune_lora_7b", "the", "scienceqa_7b",
    ]  # fmt: skip
    counted = [(row[0].replace(" samples", ""), *recipe[1:3]) for row, recipe in zip(ROWS, RECIPES, strict=True)]
    assert [name.endswith(f"{number:,} of {length}") for name, number, length in counted] == [1, 1, 0, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RECIPES)), ids=lambda number: ROWS[number][0])
def test_the_table_is_what_the_plan_says(plan, number):
    found = plan(*RECIPES[number])
    said = (found["memory"]["peak"] / GIB, found["host"]["checkpoint"] / GIB, found["steps"], found["hours"])
    assert ROWS[number][1:] == tuple(
        f"{value:{form}}" for value, form in zip(said, (".1f", ".1f", ",", ".1f"), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (["finetune_7b", 665298, 800, *DDP], "`configs/strategy/ddp.yaml`) `finetune_7b` would take {:.1f} GiB"),
        (ONE, "needs {:.1f} GiB of a device, in 4 bits"),
        ([*ONE, *NF4], "in 4 bits {:.1f} GiB, by the plan"),
    ],
)
def test_a_sentence_is_what_the_plan_says(plan, recipe, words):
    assert words.format(plan(*recipe)["memory"]["peak"] / GIB) in " ".join(PAGE.split())


@pytest.mark.slow
@pytest.mark.parametrize(("recomputation", "words"), [("full", "at most {:.0f} GiB"), ("none", "take {:.0f} GiB")])
def test_the_notebook_says_what_its_lines_for_7b_take(published, monkeypatch, capsys, recomputation, words):
    cells = json.loads((REPOSITORY / "notebooks" / "03_train_and_watch.ipynb").read_text())["cells"]
    monkeypatch.chdir(REPOSITORY)
    run = ["--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", "bf16-mixed"]
    vision = ["path", str(published / "encoder"), "select_layer", "-2", "select_feature", "patch"]
    parts = [word if n % 2 else f"--model.vision_encoder.{word}" for n, word in enumerate(vision)]
    decoder = ["--model.decoder.path", str(published / "7b"), "--model.decoder.gradient_checkpointing", recomputation]
    learned = ["--model.stage", "finetune", "--model.trainable.decoder", "lora", "--model.frozen_dtype", "bfloat16"]
    optim = ["--model.optim.learning_rate", "2e-4", "--trainer.max_steps", "500"]
    data = [
        "--data",
        "LlavaDataModule",
        "--data.records",
        "x.json",
        "--data.image_folder",
        "x",
        "--data.batch_size",
        "16",
    ]
    main(["plan", *run, *parts, *decoder, *learned, *optim, *data, "--num_samples", "8000", "--json", "-"])
    peak = json.loads(capsys.readouterr().out)["memory"]["peak"] / GIB
    assert words.format(peak) in " ".join("".join(cells[0]["source"]).split())

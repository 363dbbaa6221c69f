"""Guards: a script that goes on after a failure, or stops without one, because a status does not say what happened.

Every command ends with 0 when all is good, 1 when it found problems, 2 for wrong usage or input, and 130 when it was
interrupted. Each runs in a process of its own, which one that has imported torch forks.
"""

import csv
import json
import os
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from llava_pl.app.commands import COMMANDS

# Ctrl-C comes when a file of a certain name is opened: a signal to the process itself, while it works.

pytestmark = pytest.mark.app

RUN_EACH = """
import json, os, signal, sys
import llava_pl.lightning_cli, llava_pl.export.carry, llava_pl.app.talk.chat, llava_pl.planning.planner
from llava_pl.cli import main

def run(words, name):
    def listen(event, arguments):
        if event == "open" and os.path.basename(str(arguments[0])) == name and not sent:
            sent.append(name)
            os.kill(os.getpid(), signal.SIGINT)
    sent = []
    if name:
        sys.addaudithook(listen)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["llava-pl", *words]
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code

for number, (words, name) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(f"{number}.{stream}", os.O_WRONLY | os.O_CREAT), stream)
        status = 99
        try:
            status = run(words, name)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

CONFIG, QUICK = ["--config", "config.yaml"], ["--device", "cpu", "--max_new_tokens", "2"]
LAST, SQA = "run/checkpoints/last.ckpt", ["scienceqa", "--root", "sqa", "--split", "test"]
ASK = ["--config", "ask.yaml", "--ckpt_path", LAST]
CARRY = ["--format", "hf"]

# In their order: later ones read what earlier ones wrote.
GOOD = [
    ["fit", *CONFIG, "--run_dir", "run"],
    ["validate", *CONFIG, "--ckpt_path", LAST, "--run_dir", "validated"],
    ["test", *ASK, "--run_dir", "tested"],
    ["predict", *ASK, "--run_dir", "predicted"],
    ["import", LAST, "ours"],
    ["export", "ours", "hf", *CARRY],
    ["certify", "ours", LAST],
    ["chat", "ours", *QUICK, "--prompt", "What?"],
    ["doctor", "--json"],
    ["eval", *SQA, "--answers", "answers.jsonl"],
    ["plan", *CONFIG, "--trainer.devices", "1"],
    ["runs", "run"],
    ["data", "check", *CONFIG],
    ["data", "view", *CONFIG],
    ["data", "ledger", "run"],
    ["data", "convert", "table.csv", "table.json", "--image_folder", "."],
]
# `certify`, `runs`, `data ledger`, `doctor` and `verify` end with 1 in their own tests.
PROBLEMS = [
    ["plan", *CONFIG, "--trainer.devices", "auto"],
    ["data", "check", *CONFIG, "--data.records", "bad.json"],
]
USAGE = [
    *([command, "--no_such_option"] for command in COMMANDS),
    ["fit", "--config", "nowhere.yaml"],
    ["import", "nowhere", "x"],
    ["chat", "nowhere", "--prompt", "What?"],
    ["eval", *SQA, "--answers", "nowhere.jsonl"],
    ["eval", "no_such_task"],
    ["runs", "nowhere"],
    ["data", "ledger", "nowhere"],
    ["data", "no_such_command"],
    ["verify", "no_such_command"],
    ["verify", "invariance", "--no_such_option"],
]
# Each with the file that is opened in the midst of its work.
INTERRUPTED = [
    (["fit", *CONFIG, "--run_dir", "stopped"], "grey.png"),
    (["validate", *CONFIG, "--ckpt_path", LAST], "grey.png"),
    (["data", "check", *CONFIG], "grey.png"),
    (["eval", *SQA, "--answers", "answers.jsonl"], "answers.jsonl"),
    (["import", LAST, "ours2"], "config.json"),
    (["export", "ours", "hf2", *CARRY], "config.json"),
    (["plan", *CONFIG, "--trainer.devices", "1"], "config.json"),
    (["demo", "--folder", "demo"], "00000.png"),
    (["chat", "ours", *QUICK, "--prompt", "What?"], "config.json"),
]
CASES = [
    *((words, None, 0) for words in GOOD),
    *((words, None, 1) for words in PROBLEMS),
    *((words, None, 2) for words in USAGE),
    *((words, name, 130) for words, name in INTERRUPTED),
]


def _write_inputs(folder, parts):
    Image.effect_noise((20, 12), 90).convert("RGB").save(folder / "grey.png")
    turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "grey"}]
    records = [{"id": index, "image": "grey.png", "conversations": turns} for index in range(4)]
    (folder / "records.json").write_text(json.dumps(records))
    (folder / "bad.json").write_text(json.dumps([*records, {**records[0], "id": "x", "image": "nowhere.png"}]))
    paths = {"vision_encoder": {"path": str(parts / "encoder")}, "decoder": {"path": str(parts / "decoder")}}
    files = {"records": "records.json", "val_records": "records.json"}
    data = {**files, "image_folder": ".", "batch_size": 4, "num_workers": 0, "template": "mpt"}
    settings = {
        "model": {**paths, "stage": "finetune", "optim": {"learning_rate": 0.01, "warmup_share": 0.0}},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": data},
        "trainer": {"max_steps": 1, "accelerator": "cpu"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    asked = {"root": "sqa", "num_workers": 0, "template": "mpt"}
    settings["model"]["generation"] = {"max_new_tokens": 2}
    settings["data"] = {"class_path": "llava_pl.ScienceQADataModule", "init_args": asked}
    (folder / "ask.yaml").write_text(yaml.safe_dump(settings))
    problem = {
        "question": "Which?",
        "task": "closed choice",
        "choices": ["a", "b"],
        "answer": 0,
        "hint": "",
        "image": None,
        "grade": "grade2",
    }
    problem |= {
        "subject": "natural science",
        "topic": "t",
        "category": "c",
        "skill": "s",
        "lecture": "",
        "solution": "",
    }
    (folder / "sqa").mkdir()
    (folder / "sqa" / "problems.json").write_text(json.dumps({"1": {**problem, "split": "test"}}))
    (folder / "sqa" / "pid_splits.json").write_text(json.dumps({"train": ["1"], "val": ["1"], "test": ["1"]}))
    (folder / "answers.jsonl").write_text(json.dumps({"question_id": "1", "text": "A"}) + "\n")
    with (folder / "table.csv").open("w") as file:
        csv.writer(file).writerows([["image", "question", "answer"], ["grey.png", "Colour?", "grey"]])


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_parts):
    """Status and error stream of each case."""
    folder = tmp_path_factory.mktemp("status")
    _write_inputs(folder, tiny_parts)
    work = [sys.executable, "-c", RUN_EACH]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    cases = json.dumps([case[:2] for case in CASES])
    done = subprocess.run(
        work, input=cases, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=200
    )
    errors = [(folder / f"{number}.2").read_text() for number in range(len(CASES))]
    return list(zip(map(int, done.stdout.split()), errors, strict=True))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case[2]}-{' '.join(case[0][:2])}" for case in CASES])
def test_status(results, number):
    status, error = results[number]
    assert status == CASES[number][2], error[-2000:]
    assert "Traceback" not in error
    if status == 2:
        assert error.startswith("llava-pl: error: ")
        assert error.count("\n") == 1
    if status == 130:
        assert error.endswith("llava-pl: interrupted\n")

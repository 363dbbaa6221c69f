"""Guards: files that compose otherwise than configs/README.md says, and a mistake in one that is not one clear line.

Nothing is built, as in `test_configs.py`.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llava_pl.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
LINK_TARGETS = {"tokenizer", "image_processor", "num_image_tokens", "has_newline", "has_image_marks", "has_patch_token"}


def experiment(name):
    return CONFIGS / "experiment" / f"{name}.yaml"


def test_printed_config_is_a_config(no_run, plain, capsys, write):
    words = [
        "fit",
        "--config",
        str(experiment("scienceqa_7b")),
        "--config",
        str(CONFIGS / "logger" / "wandb.yaml"),
        "--trainer.max_steps=7",
    ]

    def printed(words):
        with pytest.raises(SystemExit) as exit:
            main([*words, "--print_config"])
        assert not exit.value.code
        return capsys.readouterr().out

    text = printed(words)
    again = ["fit", *write(text)]
    assert printed(again) == text
    assert not LINK_TARGETS & yaml.safe_load(text)["data"]["init_args"].keys()
    no_run.clear()
    main(words)
    main(again)
    first, second = (plain(cli.config.fit) for cli in no_run)
    assert first == second
    assert first["trainer"]["max_steps"] == 7


def test_later_wins(fit, write):
    early, late = write("trainer: {max_epochs: 2}", "early.yaml"), write("trainer: {max_epochs: 3}", "late.yaml")
    base = ["--config", str(experiment("align_7b"))]
    assert fit(*base, *early, *late).trainer.max_epochs == 3
    assert fit(*base, *late, *early).trainer.max_epochs == 2
    assert fit(*base, *late, "--trainer.max_epochs", "4").trainer.max_epochs == 4
    assert fit("--trainer.max_epochs", "4", *base, *late).trainer.max_epochs == 3  # as configs/README.md warns


LOGGERS = {
    "wandb": ["WandbLogger", {"project": "llava_pl", "save_dir": "runs", "log_model": False}],
    "tensorboard": ["TensorBoardLog", {"save_dir": None}],
}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("wandb", "tensorboard"), ["tensorboard"]), (("tensorboard", "wandb"), ["wandb"]),
        (("both",), ["wandb", "tensorboard"]), (("tensorboard", "both"), ["wandb", "tensorboard"]),
        (("both", "tensorboard"), ["tensorboard"]),
    ],
)  # fmt: skip
def test_of_loggers_the_last_file_counts_with_nothing_of_another(fit, plain, names, expected):
    words = [word for name in names for word in ("--config", str(CONFIGS / "logger" / f"{name}.yaml"))]
    found = plain(fit("--config", str(experiment("align_7b")), *words).trainer.logger)
    found = found if isinstance(found, list) else [found]
    assert [each["class_path"].rpartition(".")[2] for each in found] == [LOGGERS[name][0] for name in expected]
    for each, name in zip(found, expected, strict=True):
        assert LOGGERS[name][1].items() <= each["init_args"].items()


def test_lists_are_replaced_unless_plus_appends(fit, write):
    def callbacks(*words):
        return [entry.class_path.rpartition(".")[2] for entry in fit(*base, *words).trainer.callbacks]

    base = ["--config", str(experiment("align_7b"))]
    rate = write("trainer: {callbacks: [{class_path: LearningRateMonitor}]}", "rate.yaml")
    replace = write("trainer: {callbacks: [{class_path: DeviceStatsMonitor}]}", "replace.yaml")
    append = write("trainer: {callbacks+: [{class_path: DeviceStatsMonitor}]}", "append.yaml")
    assert callbacks(*rate, *replace) == ["DeviceStatsMonitor"]
    assert callbacks(*rate, *append) == ["LearningRateMonitor", "DeviceStatsMonitor"]
    assert callbacks(*append) == ["DeviceStatsMonitor"]
    assert callbacks(*rate, "--trainer.callbacks+=DeviceStatsMonitor") == ["LearningRateMonitor", "DeviceStatsMonitor"]


def test_link_target_in_a_file_is_overruled(fit, write):
    # Why no file may set one; if this ever fails, the README's sentence can go.
    config = fit("--config", str(experiment("align_7b")), *write("data: {init_args: {tokenizer: mine}}"))
    assert config.data.init_args.tokenizer == "lmsys/vicuna-7b-v1.5"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("trainer: {max_stepz: 3}", ["extra.yaml: trainer.max_stepz", "trainer.max_steps"]),
        ("trainr: {max_steps: 3}", ["extra.yaml: trainr.max_steps", "trainer.max_steps"]),
        ("model: {optim: {learning_rat: 1}}", ["extra.yaml: model.optim.learning_rat", "model.optim.learning_rate"]),
        ("data: {init_args: {batchsize: 3}}", ["extra.yaml: data.init_args.batchsize", "data.init_args.batch_size"]),
        ("trainer: {logger: {class_path: CSVLogger, init_args: {nam: x}}}", ["extra.yaml: trainer.logger", ".nam: "]),
        ("model: {stage: alignn}", ["extra.yaml: model.stage: expected one of align, finetune, found alignn"]),
        ("model: {loss_normalization: mean}", ["model.loss_normalization", "mean", "global", "micro_batch"]),
        ("model: {decoder: {attention: flash}}", ["model.decoder.attention", "sdpa", "eager", "flash_attention_2"]),
        ("data: {init_args: {template: vicuna}}", ["template", "vicuna_v1", "plain", "llama_2", "mpt", "chat"]),
        ("data: {init_args: {image_aspect: fill}}", ["image_aspect", "fill", "pad", "square", "anyres"]),
        ("data: {init_args: {grid_pinpoints: [[336, 672], [336]]}}", ["grid_pinpoints", "2 elements", "[336]"]),
        ("trainer: {precision: bf17}", ["trainer.precision", "bf17", "bf16-mixed"]),
        ("model: {optim: {learning_rate: fast}}", ["model.optim.learning_rate", "fast", "float"]),
        ("data: {class_path: NoSuchModule}", ["extra.yaml: data", "LlavaDataModule, ScienceQADataModule"]),
        ("data: missing.yaml", ["data", "missing.yaml"]),
        ("model: [1", ["extra.yaml", "line 1"]),
        ("", ["extra.yaml", "config"]),
    ],
)
def test_mistake_in_a_file_is_one_line(text, names, no_run, write, capsys):
    _fails(["fit", "--config", str(experiment("align_7b")), *write(text)], names, no_run, capsys)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--trainer.max_stepz", "3"], ["--trainer.max_stepz", "trainer.max_steps"]),
        (["--model.optim.learning_rat", "3"], ["--model.optim.learning_rat", "model.optim.learning_rate"]),
        (["--data.init_args.batchsize", "3"], ["batchsize"]),
        (["--model.stage", "alignn"], ["model.stage", "alignn", "align", "finetune"]),
        (["--config", str(CONFIGS / "debug" / "missing.yaml")], ["missing.yaml: no such file", "profile.yaml"]),
        (["--config"], ["--config"]),
        (["--data", "NoSuchModule"], ["data", "NoSuchModule"]),
        (["--model.has_newline", "true"], ["model.has_newline", "data.init_args.image_aspect"]),
        (["--model.has_image_marks", "true"], ["model.has_image_marks", "data.init_args.image_start_end"]),
        (["--model.lora.ranc", "3"], ["--model.lora.ranc"]),
        (["--model.trainable.decoder", "loraa"], ["model.trainable.decoder", "frozen", "full", "lora"]),
        (["--model.decoder.quantization", "nf3"], ["model.decoder.quantization", "nf4"]),
    ],
)
def test_mistake_on_the_command_line_is_one_line(words, names, no_run, capsys):
    _fails(["fit", "--config", str(experiment("align_7b")), *words], names, no_run, capsys)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "model.decoder.path"),
        (["--config", str(experiment("finetune_task"))], "model.decoder.path"),
        (["--config", str(experiment("align_7b")), "--data", "null"], "data"),
    ],
)
def test_what_is_missing_is_named(words, name, no_run, capsys):
    _fails(["fit", *words], [name], no_run, capsys)


def _fails(words, names, no_run, capsys):
    """Check that the program refuses the words with one line that has all these names, before it builds anything."""
    no_run.clear()
    with pytest.raises(SystemExit) as exit:
        main(words)
    output = capsys.readouterr()
    assert exit.value.code == 2
    assert not output.out
    assert output.err.startswith("llava-pl: error: ")
    assert output.err.count("\n") == 1
    assert all(name in output.err for name in names), output.err
    assert not no_run


def test_mistake_in_a_process_of_its_own():
    words = ["fit", "--config", "configs/experiment/align_7b.yaml", "--model.stage", "alignn"]
    run = subprocess.run(
        [sys.executable, "-m", "llava_pl", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert not run.stdout
    assert re.fullmatch(r"llava-pl: error: .*model\.stage.*\n", run.stderr)

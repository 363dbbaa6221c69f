"""Guards: a config that no longer parses, departs from the original's script, or hides a mistake that costs hours.

Nothing is built: the real parser of `run_lightning` reads every file, and no class is instantiated, so no name is
looked up on the hub.
"""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from llava_pl.app.data.data_commands import HELP as DATA_HELP
from llava_pl.app.load_data import DataCLI
from llava_pl.app.verify.verify_commands import EPILOG as VERIFY_HELP
from llava_pl.cli import HELP, main
from llava_pl.types import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
OVERLAYS = sorted(
    f"{path.parent.name}/{path.name}"
    for group in ("debug", "strategy", "logger")
    for path in (CONFIGS / group).glob("*.yaml")
)
LINK_TARGETS = {"tokenizer", "image_processor", "num_image_tokens", "has_newline", "has_image_marks", "has_patch_token"}

# Values that no file can know, and a run's owner gives.
GIVEN = {
    "finetune_task": ["--model.decoder.path", "some/decoder"],
    "finetune_task_lora": ["--model.decoder.path", "some/decoder"],
    "finetune_qlora_7b": ["--data.init_args.image_folder", "some/folder"],
}

# What all scripts share. The last five are not in the scripts: they are defaults of TrainingArguments in transformers
# 4.37 (data_seed, seed, max_grad_norm, adam_beta1 and adam_beta2, adam_epsilon).
SHARED = {
    "trainer.precision": "bf16-mixed",  # --bf16 True
    "float32_matmul_precision": "high",  # --tf32 True
    "trainer.devices": 8,  # README: 8 A100
    "trainer.accumulate_grad_batches": 1,  # --gradient_accumulation_steps 1
    "trainer.log_every_n_steps": 1,  # --logging_steps 1
    "model.vision_encoder.select_layer": -2,  # --mm_vision_select_layer -2
    "model.vision_encoder.select_feature": "patch",  # train.py: mm_vision_select_feature
    "model.decoder.gradient_checkpointing": "full",  # --gradient_checkpointing True
    "model.loss_normalization": "micro_batch",
    "model.frozen_dtype": "bfloat16",  # train.py: torch_dtype under --bf16
    "model.optim.projector.learning_rate": None,  # no --mm_projector_lr
    "model.optim.weight_decay": 0.0,  # --weight_decay 0.
    "model.optim.warmup_share": 0.03,  # --warmup_ratio 0.03
    "data.init_args.image_start_end": False,  # --mm_use_im_start_end False
    "data.init_args.image_patch_token": False,  # --mm_use_im_patch_token False
    "data.init_args.respect_exif": False,  # train.py: Image.open(...).convert("RGB")
    "data.init_args.legacy_tokenizer": None,
    "data.init_args.max_length": 2048,  # --model_max_length 2048
    "data.init_args.num_workers": 4,  # --dataloader_num_workers 4
    "data.init_args.seed": 42,
    "seed_everything": 42,
    "trainer.gradient_clip_val": 1.0,
    "model.optim.betas": (0.9, 0.999),
    "model.optim.eps": 1e-8,
}

PRETRAIN = {  # scripts/v1_5/pretrain.sh
    "model.stage": "align",  # --tune_mm_mlp_adapter True
    "model.vision_encoder.path": "openai/clip-vit-large-patch14-336",
    "model.projector": "mlp2x_gelu",
    "model.init_from": None,
    "model.optim.learning_rate": 1e-3,
    "trainer.max_epochs": 1,
    "data.class_path": "llava_pl.data.datamodule.LlavaDataModule",
    "data.init_args.records": "playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
    "data.init_args.image_folder": "playground/data/LLaVA-Pretrain/images",
    "data.init_args.template": "plain",  # --version plain
    "data.init_args.image_aspect": "square",  # no --image_aspect_ratio; train.py: square
    "data.init_args.batch_size": 32,
    "data.init_args.grouping": "none",  # no --group_by_modality_length
}
FINETUNE = {  # scripts/v1_5/finetune.sh, and finetune_task.sh but for --model_name_or_path
    "model.stage": "finetune",
    "model.vision_encoder.path": "openai/clip-vit-large-patch14-336",
    "model.projector": "mlp2x_gelu",
    "model.init_from": None,  # --pretrain_mm_mlp_adapter: on the command line
    "model.optim.learning_rate": 2e-5,
    "trainer.max_epochs": 1,
    "data.class_path": "llava_pl.data.datamodule.LlavaDataModule",
    "data.init_args.records": "playground/data/llava_v1_5_mix665k.json",
    "data.init_args.image_folder": "playground/data",
    "data.init_args.template": "vicuna_v1",  # --version v1
    "data.init_args.image_aspect": "pad",  # --image_aspect_ratio pad
    "data.init_args.batch_size": 16,
    "data.init_args.grouping": "modality_length",  # --group_by_modality_length True
}
LORA = {  # scripts/v1_5/finetune_lora.sh and finetune_task_lora.sh, where they differ from finetune.sh
    "model.trainable.vision_encoder": "frozen",
    "model.trainable.projector": "full",  # train.py: no --freeze_mm_mlp_adapter
    "model.trainable.decoder": "lora",  # --lora_enable True
    "model.trainable.embeddings": "frozen",
    "model.lora.rank": 128,  # --lora_r 128
    "model.lora.alpha": 256.0,  # --lora_alpha 256
    "model.lora.dropout": 0.05,  # train.py: lora_dropout
    "model.lora.bias": "none",  # train.py: lora_bias
    "model.lora.use_dora": False,
    "model.lora.use_rslora": False,
    "model.lora.targets": None,  # train.py: find_all_linear_names
    "model.optim.learning_rate": 2e-4,
    "model.optim.projector.learning_rate": 2e-5,  # --mm_projector_lr 2e-5
}
QLORA = {  # scripts/finetune_qlora.sh, where it differs from those
    "model.vision_encoder.path": "openai/clip-vit-large-patch14",
    "model.projector": "linear",  # no --mm_projector_type; train.py: linear
    "model.decoder.path": "lmsys/vicuna-7b-v1.3",  # MODEL_VERSION="vicuna-v1-3-7b"
    "model.decoder.quantization": "nf4",  # --bits 4; train.py: quant_type
    "model.decoder.double_quantization": True,  # train.py: double_quant
    "model.decoder.compute_dtype": "bfloat16",  # train.py: compute_dtype under --bf16
    "model.lora.rank": 64,  # train.py: lora_r
    "model.lora.alpha": 16.0,  # train.py: lora_alpha
    "model.optim.learning_rate": 2e-5,
    "model.optim.projector.learning_rate": None,  # no --mm_projector_lr
    "data.init_args.records": "playground/data/llava_instruct_80k.json",
    "data.init_args.image_aspect": "square",  # no --image_aspect_ratio; train.py: square
    "data.init_args.grouping": "none",  # no --group_by_modality_length
}
SCIENCEQA = {  # scripts/finetune_sqa.sh
    "model.stage": "finetune",
    "model.vision_encoder.path": "openai/clip-vit-large-patch14",
    "model.projector": "linear",  # no --mm_projector_type; train.py: linear
    "model.init_from": None,  # --pretrain_mm_mlp_adapter: on the command line
    "model.optim.learning_rate": 2e-5,
    "model.generation.max_new_tokens": 1024,  # llava/eval/model_vqa_science.py
    "data.init_args.parser": "llava",
    "trainer.max_epochs": 12,
    "data.class_path": "llava_pl.ScienceQADataModule",
    "data.init_args.prompt_format": "QCM-LEA",
    "data.init_args.train_split": "train",
    "data.init_args.template": "vicuna_v1",  # $PROMPT_VERSION is open; scripts/finetune.sh: v1
    "data.init_args.image_aspect": "square",  # no --image_aspect_ratio; train.py: square
    "data.init_args.batch_size": 16,
    "data.init_args.grouping": "none",  # no --group_by_modality_length
}
# The recipe of LLaVA-1.5 with another decoder; what differs is not of any script.
LLAMA_3 = FINETUNE | {
    "model.decoder.path": "meta-llama/Meta-Llama-3-8B-Instruct",
    "data.init_args.template": "chat",
}
QWEN_3 = LLAMA_3 | {"model.decoder.path": "Qwen/Qwen3-8B"}
SIGLIP = PRETRAIN | {  # scripts/train/pretrain_siglip.sh of LLaVA-NeXT
    "model.vision_encoder.path": "google/siglip-so400m-patch14-384",
    "model.decoder.path": "Qwen/Qwen2-7B-Instruct",
    "data.init_args.max_length": 8192,  # --model_max_length 8192
    "data.init_args.num_workers": 16,  # --dataloader_num_workers 16
}
ANYRES = FINETUNE | {  # scripts/train/finetune_clip.sh of LLaVA-NeXT, but for the decoder
    "model.decoder.path": "lmsys/vicuna-7b-v1.5",
    "model.trainable.vision_encoder": "full",  # --mm_tunable_parts mm_vision_tower,mm_mlp_adapter,mm_language_model
    "model.trainable.projector": "full",
    "model.trainable.decoder": "full",
    "model.optim.learning_rate": 1e-5,
    "model.optim.vision_encoder.learning_rate": 2e-6,  # --mm_vision_tower_lr 2e-6
    "data.init_args.image_aspect": "anyres",
    "data.init_args.grid_pinpoints": [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)],
    "data.init_args.max_length": 4096,  # tokenizer_model_max_length of liuhaotian/llava-v1.6-vicuna-7b
    "data.init_args.num_workers": 16,
}
NEXT = "scripts/train/{} of LLaVA-VL/LLaVA-NeXT at commit 5d711ba"
ORIGINAL = {
    "finetune_llama3_8b": ("scripts/v1_5/finetune.sh", LLAMA_3, 128),
    "finetune_qwen3": ("scripts/v1_5/finetune.sh", QWEN_3, 128),
    "siglip": (NEXT.format("pretrain_siglip.sh"), SIGLIP, 256),
    "anyres_7b": (NEXT.format("finetune_clip.sh"), ANYRES, 128),
    "align_13b": ("scripts/v1_5/pretrain.sh", PRETRAIN | {"model.decoder.path": "lmsys/vicuna-13b-v1.5"}, 256),
    "align_7b": ("scripts/v1_5/pretrain.sh", PRETRAIN | {"model.decoder.path": "lmsys/vicuna-7b-v1.5"}, 256),
    "finetune_13b": ("scripts/v1_5/finetune.sh", FINETUNE | {"model.decoder.path": "lmsys/vicuna-13b-v1.5"}, 128),
    "finetune_7b": ("scripts/v1_5/finetune.sh", FINETUNE | {"model.decoder.path": "lmsys/vicuna-7b-v1.5"}, 128),
    "finetune_lora_7b": (
        "scripts/v1_5/finetune_lora.sh",
        FINETUNE | LORA | {"model.decoder.path": "lmsys/vicuna-7b-v1.5"},
        128,
    ),
    "finetune_qlora_7b": (
        "scripts/finetune_qlora.sh",
        {key: value for key, value in (FINETUNE | LORA | QLORA).items() if key != "data.init_args.image_folder"},
        128,
    ),
    "finetune_task": ("scripts/v1_5/finetune_task.sh", FINETUNE, 128),
    "finetune_task_lora": ("scripts/v1_5/finetune_task_lora.sh", FINETUNE | LORA, 128),
    "scienceqa_7b": ("scripts/finetune_sqa.sh", SCIENCEQA | {"model.decoder.path": "lmsys/vicuna-7b-v1.3"}, 128),
}


def experiment(name):
    return CONFIGS / "experiment" / f"{name}.yaml"


def overlay(name):
    return ["--config", str(CONFIGS / name)]


def heads(name):
    """Return the texts of an experiment's head by their keyword; the text may go on in indented lines."""
    lines = experiment(name).read_text().split("\n\n")[0].splitlines()
    texts, key = {}, None
    for line in lines:
        if match := re.fullmatch(r"# ([A-Z][A-Za-z]+) {2,}(.*)", line):
            key = match[1]
            texts[key] = match[2]
        elif key and (match := re.fullmatch(r"# {11,}(.*)", line)):
            texts[key] += " " + match[1]
        else:
            key = None
    return texts


def command(text):
    return shlex.split(text.split(" (")[0])


def merge(base, other):
    """Return two nested dictionaries, or lists of as many of them, as one; the second wins."""
    if isinstance(base, list) and isinstance(other, list) and len(base) == len(other):
        return list(map(merge, base, other))
    if not isinstance(base, dict) or not isinstance(other, dict):
        return other
    return base | {key: merge(base[key], value) if key in base else value for key, value in other.items()}


def test_the_files_that_are_tested():
    assert sorted(ORIGINAL) == EXPERIMENTS
    assert OVERLAYS == [
        "debug/fast_dev_run.yaml", "debug/overfit_batch.yaml", "debug/profile.yaml",
        "logger/both.yaml", "logger/tensorboard.yaml", "logger/wandb.yaml",
        "strategy/ddp.yaml", "strategy/fsdp.yaml", "strategy/fsdp2.yaml", "strategy/single.yaml",
        "strategy/zero2.yaml", "strategy/zero3.yaml", "strategy/zero3_offload.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_values_are_the_originals(name, fit):
    script, values, global_batch = ORIGINAL[name]
    config = fit("--config", str(experiment(name)), *GIVEN.get(name, []))
    expected = SHARED | values
    found = {key: config[key] for key in expected}
    assert {key: str(value) if isinstance(value, Path) else value for key, value in found.items()} == expected
    # The scripts of LLaVA-NeXT leave the number of devices open; here they have the global batch of LLaVA-1.5.
    assert config.data.init_args.batch_size * config.trainer.devices == global_batch
    source = script if " of " in script else f"{script} of haotian-liu/LLaVA at commit c121f04"
    assert source in heads(name)["Values"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_values_are_written_out(name):
    # A default that changes in the code must not change an experiment.
    settings = yaml.safe_load(experiment(name).read_text())
    _, values, _ = ORIGINAL[name]
    for key in {**SHARED, **values}.keys() - {"model.init_from"}:
        *groups, last = key.split(".")
        place = settings
        for group in groups:
            place = place[group]
        assert last in place, key


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_parts_that_must_agree_come_from_the_model(name, fit):
    config = fit("--config", str(experiment(name)), *GIVEN.get(name, []))
    assert config.data.init_args.tokenizer == config.model.decoder.path
    assert config.data.init_args.image_processor == config.model.vision_encoder.path


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_no_file_sets_a_link_target(path):
    # It would be overruled without a word.
    settings = yaml.safe_load(path.read_text()) or {}
    data, model = settings.get("data") or {}, settings.get("model") or {}
    assert not LINK_TARGETS & (data.keys() | data.get("init_args", {}).keys() | model.keys())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_head(name):
    text = experiment(name).read_text()
    assert text.isascii()
    assert all(len(line) <= 120 for line in text.splitlines())
    assert {"Command", "Values", "Hardware", "Time", "Result", "Batch", "Memory"} <= heads(name).keys()
    assert "# Not as in the original: " in text


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in EXPERIMENTS for key in ("Command", "Evaluate", "Align") if key in heads(name)],
)
def test_command_in_head_parses(name, key, no_run, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = command(heads(name)[key])
    assert words[0] == "llava-pl"
    no_run.clear()
    assert main(words[1:]) == 0
    if key == "Command":
        assert f"configs/experiment/{name}.yaml" in words
        config = no_run[0].config.fit
        assert (config.model.stage == "finetune") == (config.model.init_from is not None)


SHOWN_COMMAND = r"^ *(?:srun )?(llava-pl (?:fit|validate|test|predict) .+)$"
SHOWN = {f"help-{number}": line for number, line in enumerate(re.findall(SHOWN_COMMAND, HELP, re.MULTILINE))}


@pytest.mark.parametrize("line", SHOWN.values(), ids=SHOWN)
def test_command_in_help_parses(line, no_run, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    no_run.clear()
    words = shlex.split(line)[1:]
    if "--print_config" in words:
        with pytest.raises(SystemExit, match="0"):
            main(words)
        assert "trainer:" in capsys.readouterr().out
    else:
        assert main(words) == 0
        assert len(no_run) == 1


DATA_COMMANDS = {
    line
    for line in re.findall(r"^ *(llava-pl data (?:view|check) .+)$", DATA_HELP, re.MULTILINE)
    if " COMMAND " not in line
}


@pytest.mark.parametrize("line", sorted(DATA_COMMANDS))
def test_data_command_in_help_parses(line, monkeypatch, capsys):
    """As far as the data module, whose files are not here."""

    def stop(cli):
        raise InputError(f"parsed {cli.config.fit.data.init_args.records}")

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(DataCLI, "instantiate_classes", stop)
    assert main(shlex.split(line)[1:]) == 2
    assert capsys.readouterr().err == "llava-pl: error: parsed playground/data/llava_v1_5_mix665k.json\n"


VERIFY_COMMANDS = re.findall(r"^ *(llava-pl verify invariance --config .+)$", VERIFY_HELP, re.MULTILINE)


@pytest.mark.parametrize("line", VERIFY_COMMANDS)
def test_verify_command_in_help_parses(line, monkeypatch, capsys):
    """As far as the data module, whose files are not here."""

    def stop(cli):
        raise InputError(f"parsed {cli.config.fit.trainer.devices} devices")

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(DataCLI, "instantiate_classes", stop)
    assert main(shlex.split(line)[1:]) == 2
    assert capsys.readouterr().err == "llava-pl: error: parsed 8 devices\n"


def test_commands_of_the_help_are_found():
    """Those of the pages are in test_documentation.py."""
    assert len(SHOWN) >= 4
    assert len(VERIFY_COMMANDS) == 2
    assert len(DATA_COMMANDS) == 2


def test_make_targets_of_the_readme_exist():
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([\w-]+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(targets)


@pytest.mark.parametrize("other", OVERLAYS)
def test_overlay_touches_the_trainer_alone(other):
    text = (CONFIGS / other).read_text()
    assert yaml.safe_load(text).keys() == {"trainer"}
    (line,) = [line for line in text.splitlines() if "llava-pl" in line]
    words = command(line.removeprefix("#"))
    assert words[:3] == ["llava-pl", "fit", "--config"]
    assert words[-1] == f"configs/{other}"
    assert (REPOSITORY / words[3]).is_file()


@pytest.mark.parametrize("other", OVERLAYS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_overlay_composes(name, other, fit, plain):
    words = ["--config", str(experiment(name)), *GIVEN.get(name, [])]
    before, after = plain(fit(*words)), plain(fit(*words, *overlay(other)))
    wanted = yaml.safe_load((CONFIGS / other).read_text())
    assert {**before, "trainer": None} == {**after, "trainer": None}
    assert merge(after, wanted) == after
    # What the overlay does not name stays; of a class that it names, the parser has added the defaults.
    changed = {key for key, value in after["trainer"].items() if value != before["trainer"][key]}
    assert changed <= wanted["trainer"].keys()


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "qlora" not in name])
def test_compiling_changes_nothing_else(name, fit, plain):
    words = ["--config", str(experiment(name)), *GIVEN.get(name, [])]
    before, after = plain(fit(*words)), plain(fit(*words, *overlay("speed/compile.yaml")))
    for part in ("decoder", "vision_encoder"):
        assert (before["model"][part].pop("compile_layers"), after["model"][part].pop("compile_layers")) == (
            False,
            True,
        )
    assert before == after


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tiles_are_the_data_s_choice_and_the_model_follows(name, fit, plain, monkeypatch):
    text = (CONFIGS / "data" / "anyres.yaml").read_text()
    wanted = yaml.safe_load(text)
    assert wanted.keys() == {"data"}
    (line,) = [line for line in text.splitlines() if "llava-pl" in line]
    monkeypatch.chdir(REPOSITORY)
    assert fit(*command(line.removeprefix("#"))[2:]).model.has_newline
    words = ["--config", str(experiment(name)), *GIVEN.get(name, [])]
    before, after = plain(fit(*words)), plain(fit(*words, *overlay("data/anyres.yaml")))
    assert (before["model"]["has_newline"], after["model"]["has_newline"]) == (name == "anyres_7b", True)
    assert {**before, "data": None, "model": None} == {**after, "data": None, "model": None}
    assert merge(before["data"], wanted["data"]) == after["data"]


def test_features_are_kept_by_an_overlay_of_the_data_alone(fit, plain, monkeypatch):
    text = (CONFIGS / "data" / "feature_cache.yaml").read_text()
    assert yaml.safe_load(text) == {"data": {"init_args": {"feature_cache": "worthwhile"}}}
    (line,) = [line for line in text.splitlines() if "llava-pl" in line]
    monkeypatch.chdir(REPOSITORY)
    words = command(line.removeprefix("#"))[2:]
    before, after = plain(fit(*words[:2])), plain(fit(*words))
    assert (before["data"]["init_args"].pop("feature_cache"), after["data"]["init_args"].pop("feature_cache")) == (
        "none",
        "worthwhile",
    )
    assert before == after


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_device_keeps_the_global_batch(name, fit):
    config = fit("--config", str(experiment(name)), *overlay("strategy/single.yaml"), *GIVEN.get(name, []))
    trainer = config.trainer
    assert trainer.devices * trainer.accumulate_grad_batches * config.data.init_args.batch_size == ORIGINAL[name][2]


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_experiment_serves_every_command(subcommand, parser):
    words = ["--config", str(experiment("scienceqa_7b")), *overlay("strategy/single.yaml")]
    assert parser.parse_args([subcommand, *words])[subcommand].trainer.devices == 1

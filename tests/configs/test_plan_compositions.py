"""Guards: a composition of an experiment and a strategy that cannot be planned, and plan commands that do not parse.

The names of the experiments' models stand for folders with the sizes of the published ones, but two layers.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from llava_pl.app.load_data import DataCLI
from llava_pl.app.plan import EPILOG
from llava_pl.cli import main
from llava_pl.types import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
STRATEGIES = sorted(path.stem for path in (CONFIGS / "strategy").glob("*.yaml"))
SHOWN = sorted(set(re.findall(r"^ *(llava-pl plan .+)$", EPILOG, re.MULTILINE)))
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 2,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2,
    "num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
QWEN = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 2, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 40960,
}  # fmt: skip


@pytest.fixture
def words(tmp_path):
    """The words that plan an experiment under a strategy, with stand-ins for its models."""

    def words(experiment, strategy):
        model = yaml.safe_load((CONFIGS / "experiment" / f"{experiment}.yaml").read_text())["model"]
        is_siglip = "siglip" in model["vision_encoder"]["path"]
        encoder = SIGLIP if is_siglip else CLIP
        name = model["decoder"].get("path", "")
        decoder = {**(QWEN if "Qwen" in name else LLAMA), "max_position_embeddings": 8192}
        for part, config in (("encoder", encoder), ("decoder", decoder)):
            (tmp_path / part).mkdir()
            (tmp_path / part / "config.json").write_text(json.dumps(config))
        picture = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "do_center_crop": not is_siglip}
        size = encoder["image_size"]
        picture |= {"crop_size": {"height": size, "width": size}, "size": {"shortest_edge": size}, "resample": 3}
        if is_siglip:
            picture["size"] = picture["crop_size"]
        picture["image_processor_type"] = "SiglipImageProcessor" if is_siglip else "CLIPImageProcessor"
        (tmp_path / "encoder" / "preprocessor_config.json").write_text(json.dumps(picture))
        folder = ["--data.init_args.image_folder", "x"] if experiment == "finetune_qlora_7b" else []
        return [
            "plan", "--config", str(CONFIGS / "experiment" / f"{experiment}.yaml"), "--config",
            str(CONFIGS / "strategy" / f"{strategy}.yaml"), "--model.vision_encoder.path", str(tmp_path / "encoder"),
            "--model.decoder.path", str(tmp_path / "decoder"), "--json", "-", *folder,
        ]  # fmt: skip

    return words


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_composition(words, experiment, strategy, capsys):
    plan_composition(words(experiment, strategy), experiment, strategy, capsys)


@pytest.mark.parametrize(
    ("experiment", "strategy"),
    [("align_7b", "ddp"), ("anyres_7b", "fsdp2"), ("finetune_qlora_7b", "fsdp2"), ("siglip", "single")],
)
def test_compositions(words, experiment, strategy, capsys):
    plan_composition(words(experiment, strategy), experiment, strategy, capsys)


def plan_composition(words, experiment, strategy, capsys):
    status = main(words)
    plan = json.loads(capsys.readouterr().out)
    is_divided = strategy not in ("single", "ddp")
    contradictions = [line.partition(":")[0] for line in plan["contradictions"]]
    is_divided &= "zero2" not in strategy  # which divides everything else
    expected = ["model.decoder.quantization"] if "qlora" in experiment and is_divided else []
    assert (status, contradictions) == (len(expected), expected)
    assert plan["samples_per_step"] == (256 if plan["stage"] == "align" else 128)
    assert plan["memory"]["peak"] > plan["memory"]["weights"]
    assert (plan["spread"]["weights"] != "whole") == is_divided


@pytest.mark.parametrize("line", SHOWN)
def test_plan_command_in_help_parses(line, monkeypatch, capsys):
    """As far as the model, whose files are not here."""

    def stop(cli):
        raise InputError(f"parsed {cli.config.fit.name}")

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(DataCLI, "instantiate_classes", stop)
    assert main(shlex.split(line)[1:]) == 2
    assert re.fullmatch(r"llava-pl: error: parsed finetune_(lora_)?7b\n", capsys.readouterr().err)


def test_commands_are_found():
    assert len(SHOWN) >= 2

"""Guards: a run that can only be used while the files of earlier runs are there, or upon a base that has changed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_pl import load_pretrained
from llava_pl.cli import main
from llava_pl.export.certificate import probe

pytestmark = pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*")  # frozen parts are meant to be

MARKS = ["--data.image_start_end", "true", "--data.image_patch_token", "true"]
FROZEN_PROJECTOR = ["--model.trainable.projector", "frozen", "--model.trainable.decoder", "full"]
FROZEN_PROJECTOR += ["--model.trainable.embeddings", "frozen"]
LORA = ["--model.trainable.decoder", "lora", "--model.lora.rank", "2", "--model.lora.dropout", "0"]


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_chain_of_runs_outlives_its_first_files(fit, tmp_path):
    align = fit(*MARKS)
    aligned = state(align)
    shutil.move("run", "first")
    second = ["--model.init_from", "first/checkpoints/last.ckpt", *MARKS]
    fit(*second, *FROZEN_PROJECTOR, "--model.stage", "finetune", "--trainer.max_steps", "2")
    tuned = state(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(tuned[name], tensor) for name, tensor in aligned.items() if "projector" in name)
    assert "model.decoder.model.model.embed_tokens.weight.new_rows" in tuned
    shutil.move("run", "second")
    shutil.rmtree("first")
    third = [
        "--model.init_from",
        "second/checkpoints/last.ckpt",
        *MARKS,
        *LORA,
        "--model.trainable.projector",
        "frozen",
    ]
    third += ["--save_every_n_steps", "1", "--keep_checkpoints", "9", "--data.val_records", "records.json"]
    whole = fit(*third, "--trainer.max_steps", "2")
    expected, answers = state(whole), probe(load_pretrained(whole).model)
    held = {name.replace(".base_layer", ""): tensor for name, tensor in expected.items() if "lora_" not in name}
    same(held, tuned)  # frozen all of it, and no base model's
    shutil.move("run", "third")
    shutil.rmtree("second")

    words = ["--config", "config.yaml", *third, "--trainer.max_steps", "2"]
    resumed = ["--run_dir", "resumed", "--ckpt_path", "third/checkpoints/step=1.ckpt"]
    assert main(["fit", *words, *resumed]) == 0
    same(state(Path("resumed/checkpoints/last.ckpt")), expected)
    last = "resumed/checkpoints/last.ckpt"
    assert main(["validate", *words, "--run_dir", "val", "--ckpt_path", last]) == 0
    assert all(torch.equal(*pair) for pair in zip(probe(load_pretrained(last).model), answers, strict=True))
    assert main(["export", last, "out", "--format", "hf", "--merge_lora"]) == 0
    fourth = [*words, "--run_dir", "fourth", "--model.init_from", last, "--model.optim.learning_rate", "0"]
    assert main(["fit", *fourth]) == 0
    same(state(Path("fourth/checkpoints/last.ckpt")), expected)


@pytest.fixture
def own_parts(fit, tiny_parts, tmp_path):
    """Base models that a test may change, and the words that name them."""
    for part in ("encoder", "decoder"):
        shutil.copytree(tiny_parts / part, tmp_path / part)
    return ["--model.vision_encoder.path", "encoder", "--model.decoder.path", "decoder"]


def change(folder: str, name: str) -> None:
    path = Path(folder) / "model.safetensors"
    weights = load_file(path)
    weights[name].view(-1)[0] += 1
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize("part", ["decoder", "vision_encoder"])
def test_a_base_with_one_other_weight_is_refused(fit, own_parts, capsys, part):
    last = fit(*own_parts, "--data.val_records", "records.json")
    folder = "decoder" if part == "decoder" else "encoder"
    names = {"decoder": "model.norm.weight", "vision_encoder": "vision_model.embeddings.class_embedding"}
    known = load_file(Path(folder) / "model.safetensors")
    name = next(name for name in known if names[part].endswith(name) or name.endswith(names[part]))
    change(folder, name)
    start = f"wrong {part}: expected the weights of {folder} that it was trained upon (sha256 "
    words = ["--config", "config.yaml", *own_parts, "--data.val_records", "records.json", "--trainer.max_steps", "3"]
    for command in (
        ["fit", *words, "--run_dir", "run", "--ckpt_path", "last"],
        ["validate", *words, "--run_dir", "val", "--ckpt_path", str(last)],
        ["export", str(last), "out", "--format", "projector"],
        ["import", str(last), "out"],
    ):
        capsys.readouterr()
        assert main(command) == 2, command
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert start in line
        assert f"), found {folder} (" in line
        assert f"model.{part}.path" in line
    assert not Path("out").exists()
    assert not list(Path("val").glob("**/*.jsonl"))
    assert sorted(path.name for path in Path("run/checkpoints").glob("*.ckpt")) == ["last.ckpt", "step=1.ckpt"]


def test_base_models_that_have_moved(fit, own_parts, capsys):
    last = str(fit(*own_parts))
    answers = probe(load_pretrained(last).model)
    shutil.move("encoder", "eye")
    shutil.move("decoder", "words")
    capsys.readouterr()
    assert main(["export", last, "out", "--format", "projector"]) == 2
    hint = "if it has moved, give --vision_encoder for its vision_encoder and --base for its decoder"
    assert capsys.readouterr().err.splitlines()[-1].endswith(hint)
    given = ["--base", "words", "--vision_encoder", "eye"]
    assert main(["export", last, "out", "--format", "projector", *given]) == 0
    assert main(["certify", last, "out", *given]) == 0
    found = load_pretrained(last, base="words", vision_encoder="eye")
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), answers, strict=True))
    moved = ["--model.vision_encoder.path", "eye", "--model.decoder.path", "words", "--trainer.max_steps", "2"]
    assert main(["fit", "--config", "config.yaml", *moved, "--run_dir", "run", "--ckpt_path", "last"]) == 0
    change("words", "model.norm.weight")
    capsys.readouterr()
    assert main(["export", last, "out2", "--format", "projector", *given]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("in a run as model.decoder.path, else as --base")


def test_a_checkpoint_of_an_older_version_still_asks_for_what_it_started_from(fit, capsys):
    """It has trained weights alone, and tells no base models; the next one of its run has it all."""
    align = fit()
    shutil.move("run", "first")
    words = ["--model.init_from", "first/checkpoints/last.ckpt", *FROZEN_PROJECTOR, "--model.stage", "finetune"]
    last = fit(*words, "--data.val_records", "records.json")
    content = torch.load(last, weights_only=True)
    expected = dict(content["state_dict"])
    content["state_dict"] = {name: tensor for name, tensor in expected.items() if "projector" not in name}
    del content["carried"]["bases"]
    old = Path("old.ckpt")
    torch.save(content, old)
    answers = probe(load_pretrained(last).model)
    assert all(torch.equal(*pair) for pair in zip(probe(load_pretrained(old).model), answers, strict=True))
    words = ["--config", "config.yaml", *words, "--data.val_records", "records.json", "--ckpt_path", str(old)]
    assert main(["validate", *words, "--run_dir", "val"]) == 0
    assert main(["fit", *words, "--run_dir", "again", "--trainer.max_steps", "2"]) == 0
    resumed = state(Path("again/checkpoints/last.ckpt"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items() if "projector" in name)
    shutil.rmtree("first")
    capsys.readouterr()
    assert main(["validate", *words, "--run_dir", "val"]) == 2
    assert "first/checkpoints/last.ckpt: no such file" in capsys.readouterr().err.splitlines()[-1]
    assert load_pretrained("again/checkpoints/last.ckpt").model
    assert align.name == "last.ckpt"

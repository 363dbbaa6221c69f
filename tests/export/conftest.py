"""What tests of carrying models share: tiny models with all that belongs to them, and a run of one step."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.data.image import ImageTransform
from llava_pl.data.settings import DataSettings
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.export.build import DecoderConfig, ModelConfig, VisionEncoderConfig, build_model
from llava_pl.export.pretrained import BaseModel, Origin, Pretrained
from llava_pl.export.tokenizer_files import find_tokenizer
from llava_pl.training.optim import OptimConfig


@pytest.fixture(scope="session")
def make_llava(tiny_parts):
    """A maker of tiny models of 4 image tokens, one word per character; a seed decides about the projector."""

    def make(*, projector="mlp2x_gelu", select_feature="patch", seed=0, **settings) -> Pretrained:
        torch.manual_seed(seed)
        encoder, decoder = (str(tiny_parts / part) for part in ("encoder", "decoder"))
        settings = DataSettings(**{"max_length": 300, **settings})
        tokenizer = find_tokenizer(decoder)
        add_image_tokens(tokenizer, image_start_end=settings.image_start_end)
        config = ModelConfig(
            VisionEncoderConfig(encoder, select_feature=select_feature),
            DecoderConfig(decoder),
            projector=projector,
            has_newline=settings.image_aspect == "anyres",
            has_image_marks=settings.image_start_end,
        )
        model = build_model(config)
        return Pretrained(
            model=model.eval().requires_grad_(False),
            tokenizer=tokenizer,
            image_transform=ImageTransform.from_pretrained(
                encoder, aspect="pad" if settings.image_aspect == "pad" else "square"
            ),
            settings=settings,
            projector=projector,
            origin=Origin(
                "checkpoint",
                {
                    "vision_encoder": BaseModel("encoder", None, -2, encoder),
                    "decoder": BaseModel("decoder", path=decoder),
                },
            ),
        )

    return make


@pytest.fixture
def llava(make_llava) -> Pretrained:
    return make_llava()


@pytest.fixture(scope="session")
def golden_llava(golden_path, tiny_parts) -> Path:
    """The original's tiny model, its folder."""
    return golden_path / "model" / "llava-mlp2x"


@pytest.fixture
def writable(tmp_path):
    """A maker of copies of folders of the read-only reference data, the tower beside them."""

    def copy(source: Path, name: str = "x") -> Path:
        target = tmp_path / name
        target.mkdir()
        for path in source.iterdir():
            shutil.copyfile(path, target / path.name)
        return target

    return copy


@pytest.fixture(scope="session")
def run(tiny_parts, tmp_path_factory):
    """A runner of one training step on two records; returns the module as it was trained, and its checkpoint."""
    from lightning import Trainer

    folder = tmp_path_factory.mktemp("run")
    Image.linear_gradient("L").resize((20, 12)).convert("RGB").save(folder / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    entries = [{"id": f"{n}", "image": "a.png", "conversations": turns} for n in range(2)]
    (folder / "records.json").write_text(json.dumps(entries))

    def start(name: str, *, data=None, encoder=None, decoder=None, max_steps=2, **model) -> tuple[LlavaModule, Path]:
        torch.manual_seed(0)
        eye = str(encoder or tiny_parts / "encoder")
        language = {"path": str(tiny_parts / "decoder"), **(decoder or {})}
        module = LlavaModule(
            vision_encoder=VisionEncoderConfig(eye),
            decoder=DecoderConfig(**language),
            optim=OptimConfig(learning_rate=0.01),
            has_image_marks=bool((data or {}).get("image_start_end")),
            has_patch_token=bool((data or {}).get("image_patch_token")),
            has_newline=(data or {}).get("image_aspect") == "anyres",
            **{"stage": "finetune", **model},
        )
        options = {"template": "mpt", "max_length": 300, "batch_size": 2, "num_workers": 0, **(data or {})}
        datamodule = LlavaDataModule(
            records=folder / "records.json",
            image_folder=folder,
            tokenizer=language["path"],
            image_processor=eye,
            num_image_tokens=4,
            **options,
        )
        trainer = Trainer(
            max_steps=max_steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, datamodule)
            path = folder / f"{name}.ckpt"
            trainer.save_checkpoint(path)
        module.eval()
        return module, path

    return start


def same_weights(found: Pretrained, expected: Pretrained) -> None:
    """Check that two models are one, bit for bit and dtype for dtype."""
    found, expected = found.model.state_dict(), expected.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="session")
def assert_same():
    return same_weights


@pytest.fixture
def half_llava(make_llava) -> Pretrained:
    """A model as a run leaves it: frozen parts in half precision, the projector in float32."""
    llava = make_llava()
    llava.model.vision_encoder.half()
    llava.model.decoder.half()
    return replace(llava)

"""What tests of carrying models share: tiny models with all that belongs to them, and a run of one step."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.data.image import ImageTransform
from llava_pl.data.settings import DataSettings
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.export.build import build_model
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.export.pretrained import BaseModel, Origin, Pretrained
from llava_pl.export.tokenizer_files import find_tokenizer
from llava_pl.training.optim import OptimConfig

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MPT_SIZES = {"vocab_size": 99, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}
LLAMA_3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8, "rope_theta": 500000.0,
}  # fmt: skip
FAMILIES: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig]] = {
    "llama_2": (LlamaForCausalLM, LlamaConfig(**SIZES | {"num_key_value_heads": 4})),
    "llama_3": (LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=LLAMA_3)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=4)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen2_tied": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16)),
    "smollm2": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True, rope_theta=1e5)),
    "mpt": (MptForCausalLM, MptConfig(**MPT_SIZES)),
}
"""Decoders of the families that are trained here, for the tokenizer of `tiny_parts`."""

EYE = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
PICTURES = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255,
    "size": {"height": 16, "width": 16},
}  # fmt: skip

CHAT = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
CHAT += "{% if add_generation_prompt %}assistant: {% endif %}"


@pytest.fixture(scope="session")
def make_decoder(tiny_parts, tmp_path_factory):
    """A maker of folders of tiny decoders, by family; their tokenizers have a chat template."""
    parent = tmp_path_factory.mktemp("decoders")

    def make(family: str) -> Path:
        folder = parent / family
        if not folder.exists():
            model_class, config = FAMILIES[family]
            torch.manual_seed(0)
            model_class(config).save_pretrained(folder)
            tokenizer = find_tokenizer(tiny_parts / "decoder")
            tokenizer.chat_template = CHAT
            tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_encoder(tmp_path_factory):
    """A maker of folders of tiny encoders of SigLIP, and of SigLIP-2 as it is released: the whole of it."""
    parent = tmp_path_factory.mktemp("encoders")

    def make(family: str) -> Path:
        folder, is_whole = parent / family, family == "siglip_2"
        if not folder.exists():
            torch.manual_seed(0)
            if is_whole:
                text = {**EYE, "vocab_size": 9, "projection_size": 16, "bos_token_id": 0, "eos_token_id": 1}
                SiglipModel(SiglipConfig(vision_config=EYE, text_config=text)).save_pretrained(folder)
            else:
                SiglipVisionModel(SiglipVisionConfig(**EYE)).save_pretrained(folder)
            settings = PICTURES | {"resample": 2 if is_whole else 3}
            (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        return folder

    return make


@pytest.fixture(scope="session")
def make_llava(tiny_parts, make_decoder):
    """A maker of tiny models of 4 image tokens, one word per character; a seed decides about the projector."""

    def make(
        *, projector="mlp2x_gelu", select_feature="patch", seed=0, family=None, encoder=None, **settings
    ) -> Pretrained:
        torch.manual_seed(seed)
        encoder = str(encoder or tiny_parts / "encoder")
        decoder = str(make_decoder(family) if family else tiny_parts / "decoder")
        settings = DataSettings(**{"max_length": 300, **settings})
        tokenizer = find_tokenizer(decoder)
        add_image_tokens(tokenizer, image_start_end=settings.image_start_end)
        config = ModelConfig(
            VisionEncoderConfig(encoder, select_feature=select_feature),
            DecoderConfig(decoder, attention="eager" if family == "mpt" else "sdpa"),
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
            image_processor=eye,
            num_image_tokens=module.num_image_tokens,
            **{"tokenizer": language["path"], **options},
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

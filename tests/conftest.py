"""Fixtures that every test may use: the reference data, and a closed network."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from record_zoo import zoo as zoo  # fixtures
from record_zoo import zoo_reasons as zoo_reasons
from scripted_teacher import teacher_server as teacher_server
from small_pipeline import pipeline_folder as pipeline_folder

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

REPOSITORY = Path(__file__).resolve().parents[1]

CLIP = {  # openai/clip-vit-large-patch14-336, its vision part
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
VICUNA = {  # lmsys/vicuna-7b-v1.5 and 13b-v1.5, where they are the same
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_act": "silu",
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SIZES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}


@pytest.fixture(autouse=True)
def _no_seed_is_left():
    """Lightning leaves the seed of a run in the environment, where it would reach the next test's."""
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What is read and counted once is kept for this session, not in the user's home."""
    os.environ["LLAVA_PL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["LLAVA_PL_CACHE"]


@pytest.fixture(scope="session")
def shared_path() -> Path:
    """Folder with the reference data (`golden/`, `scienceqa/`), which is not part of the repository.

    Found at `$LLAVA_PL_SHARED` or beside the repository. Without it the test is skipped with this reason;
    `LLAVA_PL_REQUIRE_SHARED=1`, as in CI, turns the skip into a failure.
    """
    path = Path(os.environ.get("LLAVA_PL_SHARED", REPOSITORY.parent / "shared"))
    if (path / "golden").is_dir():
        return path
    reason = f"reference data not found at {path}; set LLAVA_PL_SHARED to the folder that holds golden/"
    if os.environ.get("LLAVA_PL_REQUIRE_SHARED") == "1":
        pytest.fail(reason)
    return pytest.skip(reason)


@pytest.fixture(scope="session")
def golden_path(shared_path: Path) -> Path:
    """What the original LLaVA computes."""
    return shared_path / "golden"


@pytest.fixture(scope="session")
def tiny_parts(tmp_path_factory) -> Path:
    """Folder with `encoder/` (CLIP, 4 patches of 8 pixels) and `decoder/` (LLaMA, one token per character).

    Random weights from a fixed seed, saved as ordinary transformers folders.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8
    )
    CLIPVisionModel(vision).save_pretrained(folder / "encoder")
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        folder / "encoder"
    )
    characters = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(32, 127)), "\n"]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    ).save_pretrained(folder / "decoder")
    language = LlamaConfig(
        vocab_size=len(characters), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=1024,
    )  # fmt: skip
    LlamaForCausalLM(language).save_pretrained(folder / "decoder")
    return folder


@pytest.fixture(scope="session")
def imported(golden_path, tiny_parts, tmp_path_factory) -> str:
    """A folder of the original's, as `import` makes it ours."""
    from llava_pl.cli import main

    place = str(tmp_path_factory.mktemp("model") / "tiny")
    source = str(golden_path / "model" / "llava-mlp2x")
    assert main(["import", source, place, "--tokenizer", str(tiny_parts / "decoder")]) == 0
    return place


@pytest.fixture(scope="session")
def mid_parts(tmp_path_factory, tiny_parts):
    """`encoder/` and `decoder/` whose activations outweigh what a run has beside them, with `records.json`."""
    import torch
    from PIL import Image
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("mid")
    torch.manual_seed(0)
    shutil.copytree(tiny_parts / "decoder", folder / "decoder")
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=8
    )
    CLIPVisionModel(vision).save_pretrained(folder / "encoder")
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        folder / "encoder"
    )
    language = LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=1024,
    )  # fmt: skip
    LlamaForCausalLM(language).save_pretrained(folder / "decoder")
    Image.new("RGB", (64, 64), (200, 40, 40)).save(folder / "red.png")
    question = {"from": "human", "value": "<image>\nWhat is it that you see?"}
    records = [
        {
            "id": index,
            "image": "red.png",
            "conversations": [question, {"from": "gpt", "value": "red " * (20 + index % 4)}],
        }
        for index in range(16)
    ]
    (folder / "records.json").write_text(json.dumps(records))
    return folder


@pytest.fixture
def build(tiny_parts):
    """A maker of models of the tiny parts, as a stage trains them; a seed decides about the projector."""
    import torch

    from llava_pl.export.parts import load_decoder, load_vision_encoder
    from llava_pl.models.anyres import build_newline
    from llava_pl.models.llava import LlavaModel
    from llava_pl.models.projector import build_projector
    from llava_pl.models.vocabulary import add_rows
    from llava_pl.training.stages import PLANS, apply_plan

    def make(kind="mlp2x_gelu", stage="align", seed=0, has_newline=False, new_token_ids=()) -> LlavaModel:
        torch.manual_seed(seed)
        encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
        add_rows(decoder, new_token_ids)
        newline = build_newline(32) if has_newline else None
        projector = build_projector(kind, vision_width=16, decoder_width=32)
        model = LlavaModel(encoder, projector, decoder, newline, new_token_ids)
        apply_plan(model, PLANS[stage])
        return model

    return make


@pytest.fixture
def state_of():
    """What a Lightning module with a model under ``model`` has as its state dict."""
    return lambda model: {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


@pytest.fixture
def tiny_model(tiny_parts) -> dict[str, Any]:
    """The `model` group of a configuration that finetunes the tiny parts."""
    return {
        "stage": "finetune",
        "vision_encoder": {"path": str(tiny_parts / "encoder")},
        "decoder": {"path": str(tiny_parts / "decoder")},
        "optim": {"learning_rate": 0.001},
    }


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Folder with `encoder/`, `7b/` and `13b/`, each with a `config.json` and nothing else."""
    folder = tmp_path_factory.mktemp("published")
    for name, config in {"encoder": CLIP, **{name: VICUNA | size for name, size in SIZES.items()}}.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder

"""Fixtures that every test may use: the reference data, and a closed network."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

REPOSITORY = Path(__file__).resolve().parents[1]


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

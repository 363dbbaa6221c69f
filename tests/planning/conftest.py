"""Models of published sizes as their configurations alone, and a small one that can be trained and measured."""

import json
import shutil

import pytest

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


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Folder with `encoder/`, `7b/` and `13b/`, each with a `config.json` and nothing else."""
    folder = tmp_path_factory.mktemp("published")
    for name, config in {"encoder": CLIP, **{name: VICUNA | size for name, size in SIZES.items()}}.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder


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

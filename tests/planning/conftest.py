"""Models of published sizes as their configurations alone."""

import json

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

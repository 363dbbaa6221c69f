"""Guards: a family of decoders that works alone, but not in a run with its tokenizer's template."""

import shutil

import pytest
import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.training.module import LlavaModule

pytestmark = pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*")  # frozen parts are meant to be

CHAT = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
SIZES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES = {
    "mistral": lambda size: MistralForCausalLM(MistralConfig(**SIZES, vocab_size=size, sliding_window=8)),
    "qwen2": lambda size: Qwen2ForCausalLM(Qwen2Config(**SIZES, vocab_size=size, tie_word_embeddings=True)),
    "qwen3": lambda size: Qwen3ForCausalLM(Qwen3Config(**SIZES, vocab_size=size, head_dim=8)),
    "mpt": lambda size: MptForCausalLM(MptConfig(d_model=16, n_heads=2, n_layers=2, max_seq_len=256, vocab_size=size)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_and_comes_back(fit, tiny_parts, tmp_path, family):
    folder = tmp_path / "decoder"
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    before = FAMILIES[family](len(tokenizer))
    before.save_pretrained(folder)
    words = ["--model.stage", "finetune", "--model.decoder.path", str(folder), "--data.template", "chat"]
    words += ["--model.decoder.gradient_checkpointing", "selective", "--model.decoder.attention"]
    module = LlavaModule.load_from_checkpoint(fit(*words, "eager" if family == "mpt" else "sdpa"), weights_only=True)
    shutil.rmtree(folder)  # what was learned is in the model
    decoder = module.model.decoder
    for name, parameter in before.named_parameters():
        # Biases of keys move nothing, and have the gradient of rounding errors or none; AdamW steps on either.
        if not name.endswith("k_proj.bias"):
            assert not torch.equal(decoder.model.get_parameter(name), parameter), name
    is_tied = family in ("qwen2", "mpt")
    assert (decoder.head.weight is decoder.embedding.weight) == is_tied
    ids = tokenizer("Colour?", return_tensors="pt").input_ids
    answer = decoder.generate(decoder.embed(ids), torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    assert answer.shape[0] == 1

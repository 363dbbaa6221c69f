"""The training step of haotian-liu/LLaVA, as its `train.py` puts it together for its scripts.

In float32, as a processor without half precision needs it, and with transformers' own attention, as flash attention
needs a GPU; both as in everyone else's step. "recomputed" is what its scripts ask for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from step_rounds import NUM_STEPS, StepRounds, read_samples
from step_trainer import Steps, make_settings, note_loss


def main(folder: Path, stage: str, checkout: str, recomputed: bool) -> None:
    """Train as long as steps are asked for."""
    sys.path.insert(0, checkout)
    from llava.model import LlavaLlamaForCausalLM
    from llava.train.llava_trainer import LLaVATrainer
    from llava.train.train import DataCollatorForSupervisedDataset, ModelArguments, TrainingArguments

    model = LlavaLlamaForCausalLM.from_pretrained(str(folder / "decoder"))
    model.config.use_cache = False
    if recomputed:
        model.enable_input_require_grads()
    model_arguments = ModelArguments(
        version="plain" if stage == "align" else "v1",
        vision_tower=str(folder / "encoder"),
        pretrain_mm_mlp_adapter=str(folder / "mm_projector.bin"),
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=-2,
        tune_mm_mlp_adapter=stage == "align",
    )
    model.get_model().initialize_vision_modules(model_args=model_arguments)
    model.get_vision_tower().to(dtype=torch.float32)
    model.config.tokenizer_padding_side, model.config.tokenizer_model_max_length = "right", 2048
    if stage == "align":
        model.requires_grad_(False)
        model.get_model().mm_projector.requires_grad_(True)
    samples = [
        {"input_ids": sample["input_ids"], "labels": sample["labels"], "image": sample["pixel_values"]}
        for sample in read_samples(folder)
    ]
    rounds = StepRounds(model.named_parameters)

    words = SimpleNamespace(pad_token_id=0, model_max_length=2048)
    note_loss(LLaVATrainer, rounds)(
        model=model,
        args=TrainingArguments(**make_settings(folder, stage, len(samples), recomputed=recomputed)),
        train_dataset=samples * NUM_STEPS,
        data_collator=DataCollatorForSupervisedDataset(tokenizer=words),
        callbacks=[Steps(rounds)],
    ).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], "recomputed" in sys.argv[4:])

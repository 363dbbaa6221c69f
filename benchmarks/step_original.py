"""The training step of haotian-liu/LLaVA, as its `train.py` puts it together for its scripts.

In float32, as a processor without half precision needs it, and with transformers' own attention, as flash attention
needs a GPU; both as in everyone else's step. "recomputed" is what its scripts ask for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from step_rounds import LEARNING_RATES, NUM_STEPS, StepRounds, read_samples
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback


class Steps(TrainerCallback):
    """Runs a step when it is asked for."""

    def __init__(self, rounds: StepRounds) -> None:
        self.rounds = rounds

    def on_step_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Wait."""
        self.rounds.begin()


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

    class Noted(LLaVATrainer):
        def _get_train_sampler(self, *_: Any) -> Sampler[int]:  # noqa: ANN401
            return SequentialSampler(self.train_dataset)

        def training_step(self, *arguments: Any) -> Tensor:  # noqa: ANN401
            rounds.loss = super().training_step(*arguments)
            return rounds.loss

    arguments = TrainingArguments(
        output_dir=str(folder / "original"),
        per_device_train_batch_size=len(samples),
        learning_rate=LEARNING_RATES[stage],
        max_steps=NUM_STEPS,
        gradient_checkpointing=recomputed,
        lr_scheduler_type="cosine",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    words = SimpleNamespace(pad_token_id=0, model_max_length=2048)
    Noted(
        model=model,
        args=arguments,
        train_dataset=samples * NUM_STEPS,
        data_collator=DataCollatorForSupervisedDataset(tokenizer=words),
        callbacks=[Steps(rounds)],
    ).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], "recomputed" in sys.argv[4:])

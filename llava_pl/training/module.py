"""The Lightning module: one model, two stages, and ScienceQA through `validate`."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any, Literal, cast, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from llava_pl.evaluation.generation import GenerationConfig, generate_answers
from llava_pl.evaluation.parsing import Parser
from llava_pl.export.build import DecoderConfig, ModelConfig, VisionEncoderConfig, build_model, plan_image_tokens
from llava_pl.export.initial_weights import check_lora, load_initial_weights
from llava_pl.models.adapters import LoraConfig
from llava_pl.models.llava import LlavaModel
from llava_pl.training.answering import ScoreQuestions
from llava_pl.training.carried import describe_run
from llava_pl.training.checkpoint import check_trained, keep_trained
from llava_pl.training.normalization import LossNormalization, normalize_loss
from llava_pl.training.optim import OptimConfig, build_optimizer, build_schedule, check_rates
from llava_pl.training.resplit import resplit
from llava_pl.training.schedule import count_optimizer_steps, is_step_complete
from llava_pl.training.sharding import check_shardable, shard
from llava_pl.training.stages import PLANS, Stage, TrainablePlan, add_planned_adapters, apply_plan, check_plan
from llava_pl.types import Batch, InputError, LossOutput


class LlavaModule(LightningModule):
    """LLaVA in training and evaluation.

    Args:
        stage: "align" trains the projector alone, "finetune" projector and decoder, unless `trainable` says else.
        vision_encoder: The frozen encoder.
        decoder: The language model.
        optim: The optimizer, its rates and their schedule.
        trainable: How each part is trained, in place of what the stage implies.
        projector: Kind of projector: "linear", "mlp{N}x_gelu", "identity", "qformer", "resampler", "pixel_shuffle", or
            the full name of a class of your own.
        projector_options: Further arguments of the projector's class, such as num_queries or factor.
        has_newline: Learn, with the projector, the embedding that ends each row of a tiled picture; true exactly if
            data.image_aspect is anyres, from which the command line takes it.
        has_image_marks: Give the decoder rows for the marks around image slots, if its tokenizer lacks them; the
            command line takes it from data.image_start_end.
        has_patch_token: Give it a row for <im_patch> likewise; the command line takes it from data.image_patch_token.
        lora: The adapters of the parts that `trainable` trains by LoRA.
        init_from: Trained weights to start from: a checkpoint of an earlier run, an original `mm_projector.bin` or
            LLaVA folder.
        loss_normalization: "global" weighs every supervised token of the global batch alike, "micro_batch" is the
            original's mean of means.
        frozen_dtype: Dtype that frozen parts are held in; trained weights are always float32.
        generation: How questions are answered in evaluation.
        parser: How letters are read off answers: "llava" as the original, "strict" without its traps.
    """

    def __init__(
        self,
        *,
        stage: Stage,
        vision_encoder: VisionEncoderConfig,
        decoder: DecoderConfig,
        optim: OptimConfig,
        trainable: TrainablePlan | None = None,
        projector: str = "mlp2x_gelu",
        projector_options: dict[str, Any] | None = None,
        has_newline: bool = False,
        has_image_marks: bool = False,
        has_patch_token: bool = False,
        lora: LoraConfig | None = None,
        init_from: str | None = None,
        loss_normalization: LossNormalization = "global",
        frozen_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008  frozen, so a shared default is safe
        parser: Parser = "llava",
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("stage", stage, get_args(Stage)),
            ("loss_normalization", loss_normalization, get_args(LossNormalization)),
            ("parser", parser, get_args(Parser)),
        ):
            if value not in choices:
                raise InputError(f"model.{name}: expected one of {', '.join(choices)}, found {value!r}")
        # load_from_checkpoint hands back the plain values that are saved below.
        model_config = ModelConfig(
            vision_encoder=vision_encoder,
            decoder=decoder,
            projector=projector,
            projector_options=projector_options,
            has_newline=has_newline,
            has_image_marks=has_image_marks,
            has_patch_token=has_patch_token,
            frozen_dtype=frozen_dtype,
        )
        optim = OptimConfig(**optim) if isinstance(optim, dict) else optim
        trainable = TrainablePlan(**trainable) if isinstance(trainable, dict) else trainable
        lora = LoraConfig(**lora) if isinstance(lora, dict) else lora
        plan = PLANS[stage] if trainable is None else trainable
        check_plan(
            plan,
            lora=lora,
            is_quantized=model_config.decoder.quantization != "none",
            has_new_tokens=has_image_marks or has_patch_token,
        )
        if lora is None and plan.lora_parts:
            lora = LoraConfig()  # a checkpoint says how its adapters are used, also where a default has changed since
        generation = GenerationConfig(**generation) if isinstance(generation, dict) else generation
        # Plain values only: a checkpoint with dataclasses inside could not be read with weights_only=True.
        self.save_hyperparameters(
            {
                **asdict(model_config),
                "stage": stage,
                "optim": asdict(optim),
                "trainable": None if trainable is None else asdict(trainable),
                "lora": None if lora is None else asdict(lora),
                "init_from": init_from,
                "loss_normalization": loss_normalization,
                "generation": asdict(generation),
                "parser": parser,
            }
        )
        self.stage: Stage = stage
        self.model_config = model_config
        self.optim_config = optim
        self.plan = plan
        check_rates(optim, self.plan)
        self.lora = lora
        self.init_from = init_from
        self.loss_normalization: LossNormalization = loss_normalization
        self.generation = generation
        self.parser: Parser = parser
        self.num_unsupervised_batches = 0
        self.strict_loading = False  # frozen weights are not in a checkpoint; see on_load_checkpoint
        self.model: LlavaModel = cast("LlavaModel", None)

    @property
    def num_image_tokens(self) -> int:
        """P, the image tokens per picture or tile; the data module is linked to it."""
        return plan_image_tokens(self.model_config)

    def configure_model(self) -> None:
        """Build the layers, once: under a sharding strategy Lightning calls this where memory is already divided."""
        if self.model is not None:
            return
        if self.device_mesh is not None:
            check_shardable(self.model_config.decoder.quantization, self.optim_config.optimizer)
        device = "cpu" if self._trainer is None else self._trainer.strategy.root_device
        model = build_model(self.model_config, device=device)
        add_planned_adapters(model, self.plan, self.lora)
        apply_plan(model, self.plan, lora_bias="none" if self.lora is None else self.lora.bias)
        for parameter in model.parameters():
            if parameter.requires_grad:
                # Half-precision weights would round small updates away; autocast takes care of the speed.
                parameter.data = parameter.data.float()
        if self.init_from is not None:
            load_initial_weights(model, self.init_from, lora=self.lora)
        self._check_vocabulary(model)
        if self.device_mesh is not None:
            shard(model, self.device_mesh["data_parallel"])
        self.model = model

    def forward(self, batch: Batch) -> LossOutput:
        """Return sum and number of supervised tokens of a batch."""
        output = self.model(
            input_ids=batch["input_ids"],
            pixel_values=batch["pixel_values"],
            attention_mask=batch.get("attention_mask"),
            position_ids=batch.get("position_ids"),
            labels=batch["labels"],
            sequence_lengths=batch.get("sequence_lengths"),
            grids=batch.get("grids", ()),
        )
        return cast("LossOutput", output.loss_output)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a micro batch, scaled as the normalization asks."""
        loss = normalize_loss(
            self(batch),
            batch,
            normalization=self.loss_normalization,
            num_micro_batches=self.trainer.accumulate_grad_batches,
            world_size=self.trainer.world_size,
            sum_over_ranks=self._sum_over_ranks,
        )
        self._check(loss, batch)
        self._log_step_loss(loss.detach())
        return loss

    def configure_callbacks(self) -> list[Callback]:
        """Return what scores the answers of `validate` and `test`; Lightning adds it to the trainer's callbacks."""
        return [ScoreQuestions(self.parser)]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, list[str]] | None:
        """Answer a batch of questions, or add a batch of records to the mean loss."""
        if "questions" in batch:
            return self.predict_step(batch, batch_idx)
        # Weighted by tokens, so that the mean does not depend on how rows fell into batches. Logged for a batch without
        # any, too: the other ranks would wait forever for one that has only such batches.
        # Times the ranks, because Lightning 2.6.6 divides the weights by them and rounds down.
        weight = batch["num_supervised"] * self.trainer.world_size
        self.log("val/loss", self(batch).mean, batch_size=weight, sync_dist=True, add_dataloader_idx=False)
        return None

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, list[str]]:
        """Answer a batch of questions."""
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, list[str]]:
        """Return the answers to a batch of questions as ``texts``."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return {"texts": generate_answers(self.model, batch, data.tokenizer, self.generation, stop=data.stop)}

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of many forms
        """Return the optimizer and its schedule, one step of it for each optimizer step."""
        # Lightning cannot clip what a fused update unscales by itself.
        optimizer = build_optimizer(self.model, self.optim_config, allows_fused=self.trainer.precision != "16-mixed")
        num_steps = count_optimizer_steps(self.trainer)
        schedule = build_schedule(optimizer, num_steps=num_steps, warmup_share=self.optim_config.warmup_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors of a batch; Lightning's own walk refuses the frozen dataclasses beside them."""
        moved = {key: value.to(device, non_blocking=True) for key, value in batch.items() if isinstance(value, Tensor)}
        return cast("Batch", {**batch, **moved})

    def on_train_start(self) -> None:
        """Start adding up the loss of the first step."""
        self._step_loss = torch.zeros((), device=self.device)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm before clipping, and the learning rates."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
        self.log_dict({f"lr/{group['name']}": float(group["lr"]) for group in optimizer.param_groups})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights alone, and how the model is to be asked."""
        checkpoint |= describe_run(getattr(self._trainer, "datamodule", None))
        checkpoint["state_dict"] = keep_trained(checkpoint["state_dict"], self.model, "model.")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights fit before Lightning copies them; a run may go on with other ranks."""
        self.configure_model()  # not yet called on the way through load_from_checkpoint
        is_resumed = self._trainer is not None and self._trainer.state.fn == "fit"
        if self.lora is not None:
            check_lora(checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}), self.lora, where="checkpoint")
        check_trained(checkpoint["state_dict"], self.model, "model.", is_resumed=is_resumed)
        if is_resumed:
            resplit(checkpoint, self.trainer)

    def _check_vocabulary(self, model: LlavaModel) -> None:
        tokenizer = getattr(getattr(self._trainer, "datamodule", None), "tokenizer", None)
        path = self.model_config.decoder.path
        if tokenizer is not None and len(tokenizer) > model.decoder.num_embeddings:
            raise InputError(
                f"model.decoder.path: {path}: its tokenizer knows {len(tokenizer)} tokens, its "
                f"decoder {model.decoder.num_embeddings}; remove the added tokens, or give the decoder rows for them"
            )

    def _sum_over_ranks(self, number: int) -> Tensor:
        return cast("Tensor", self.trainer.strategy.reduce(torch.tensor(number, device=self.device), reduce_op="sum"))

    def _check(self, loss: Tensor, batch: Batch) -> None:
        if batch["num_supervised"] == 0:
            self.num_unsupervised_batches += 1
            warnings.warn(  # on every rank: each has batches of its own
                f"batch of samples {', '.join(batch['ids'])} supervises nothing ({self.num_unsupervised_batches} such "
                "batches so far); it adds a zero to the loss",
                stacklevel=2,
            )
        if not torch.isfinite(loss):
            raise InputError(
                f"train/loss is {loss.item()} at step {self.trainer.global_step} on samples {', '.join(batch['ids'])}; "
                "training stops before it can spoil the weights. Lower the learning rate, or look at these samples"
            )

    def _log_step_loss(self, loss: Tensor) -> None:
        """Log the loss of a whole optimizer step: what its micro batches returned, divided as Lightning divides."""
        self._step_loss += loss / self.trainer.accumulate_grad_batches
        if is_step_complete(self.trainer):
            self.log("train/loss", self._step_loss, prog_bar=True, sync_dist=True)
            self._step_loss = torch.zeros_like(self._step_loss)

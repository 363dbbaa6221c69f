"""The Lightning module: one model, two stages, and ScienceQA through `validate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, cast, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from llava_pl.data.clip_pixels import look_up_pixels
from llava_pl.evaluation.generation import Answers, GenerationConfig, answer_questions
from llava_pl.export.bases import read_bases
from llava_pl.export.build import build_model, plan_image_tokens
from llava_pl.export.initial_weights import check_lora, load_initial_weights
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.export.streaming import WeightStream
from llava_pl.models.adapters import LoraConfig
from llava_pl.models.division import is_divided
from llava_pl.models.llava import INPUTS, LlavaModel
from llava_pl.models.vocabulary import check_vocabulary
from llava_pl.training.answering import ScoreQuestions
from llava_pl.training.base_watch import BaseModels
from llava_pl.training.carried import describe_run
from llava_pl.training.checkpoint import check_kept, find_own, keep_own, take_rows
from llava_pl.training.feature_cache import FeatureCache
from llava_pl.training.loss_watch import LossWatch
from llava_pl.training.normalization import LossNormalization, normalize_loss, sum_over_ranks
from llava_pl.training.optim import OptimConfig, build_optimizer, build_schedule, check_rates
from llava_pl.training.rehearsal import check_recompute, check_run
from llava_pl.training.resplit import resplit
from llava_pl.training.schedule import count_optimizer_steps, is_step_complete
from llava_pl.training.stages import PLANS, Stage, TrainablePlan, check_plan, prepare
from llava_pl.training.step_log import StepLog
from llava_pl.types import Batch, InputError, LossOutput


class LlavaModule(LightningModule):
    """LLaVA in training and evaluation.

    Args:
        stage: "align" trains the projector alone, "finetune" projector and decoder, unless `trainable` says else.
        vision_encoder: The vision encoder.
        decoder: The language model.
        optim: The optimizer, its rates and their schedule.
        trainable: How each part is trained, in place of what the stage implies: a part that it leaves out is frozen,
            but for the projector.
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
            LLaVA folder, or a folder that `llava-pl import` made. With --ckpt_path nobody looks at it: the checkpoint
            holds what it brought.
        loss_normalization: "global" weighs every supervised token of the global batch alike, "micro_batch" is the
            original's mean of means.
        frozen_dtype: Dtype that frozen parts are held in. What learns is float32, unless trainer.precision turns the
            whole model (bf16-true, 64-true).
        generation: How questions are answered in evaluation.
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
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("stage", stage, get_args(Stage)),
            ("loss_normalization", loss_normalization, get_args(LossNormalization)),
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
        plain: dict[str, Any] = {
            "stage": stage,
            "optim": asdict(optim),
            "trainable": None if trainable is None else asdict(trainable),
            "lora": None if lora is None else asdict(lora),
            "generation": asdict(generation),
        }
        plain |= {"init_from": init_from, "loss_normalization": loss_normalization}
        self.save_hyperparameters(asdict(model_config) | plain)
        self.stage: Stage = stage
        self.model_config = model_config
        self.optim_config = optim
        self.plan = plan
        check_rates(optim, self.plan)
        self.lora = lora
        self.init_from = init_from
        self.loss_normalization: LossNormalization = loss_normalization
        self.generation = generation
        self._watch = LossWatch()
        self.strict_loading = False  # base models' weights are not in a checkpoint; see on_load_checkpoint
        # Whether a checkpoint will be loaded, which holds what init_from would bring: Lightning says it too late.
        self.expects_checkpoint = False
        self._replaced: set[str] = set()  # parameters that are not what the base models hold
        self._bases = BaseModels(model_config.base_paths)
        self.model: LlavaModel = cast("LlavaModel", None)

    @property
    def num_image_tokens(self) -> int:
        """P, the image tokens per picture or tile; the data module is linked to it."""
        return plan_image_tokens(self.model_config)

    def configure_model(self) -> None:
        """Build the layers, once: under a sharding strategy Lightning calls this where memory is already divided."""
        is_training = self._trainer is not None and self._trainer.state.fn == "fit"
        if is_training:
            check_recompute(self.model_config.decoder)
        if self.model is not None:
            return
        strategy = None if self._trainer is None else self._trainer.strategy
        # Of a divided model no device ever holds all weights, not even for a moment.
        stream = WeightStream() if getattr(strategy, "divides_weights", False) else None
        config = self.model_config if is_training else self.model_config.for_evaluation()
        model = build_model(config, device=strategy.root_device if strategy else "cpu", stream=stream)
        prepare(model, self.plan, self.lora, stream)
        if (tokenizer := getattr(getattr(self._trainer, "datamodule", None), "tokenizer", None)) is not None:
            check_vocabulary(model, len(tokenizer), self.model_config.decoder.path)
        self.model = model
        if not self.expects_checkpoint:
            self._load_initial_weights(stream)
        if (divide := getattr(strategy, "divide", None)) is not None:
            divide(model, stream)
        if self._trainer is not None and self.local_rank == 0:
            self._bases.start()

    def forward(self, batch: Batch) -> LossOutput:
        """Return sum and number of supervised tokens of a batch."""
        output = self.model(**{name: value for name, value in batch.items() if name in INPUTS})
        return cast("LossOutput", output.loss_output)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a micro batch, scaled as the normalization asks."""
        loss = normalize_loss(
            self(batch),
            batch,
            normalization=self.loss_normalization,
            num_micro_batches=self.trainer.accumulate_grad_batches,
            world_size=self.trainer.world_size,
            # Filled there: a number that is brought there makes the host wait.
            sum_over_ranks=lambda number: sum_over_ranks(torch.full((), number, device=self.device)),
        )
        self._watch.check(loss, batch, step=self.trainer.global_step)
        self._log_step_loss(loss.detach())
        return loss

    def configure_callbacks(self) -> list[Callback]:
        """Return what checks base models and losses, logs steps and scores answers; Lightning adds them to its own.

        It asks for them before data is prepared and weights are read: settings that cannot work end the run here.
        """
        if self.model is None:
            check_run(self.trainer, self.model_config, self.plan, lora=self.lora, optim=self.optim_config)
        return [self._bases, self._watch, StepLog(), ScoreQuestions(), FeatureCache()]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Answers | None:
        """Answer a batch of questions, or add a batch of records to the mean loss."""
        if "questions" in batch:
            return self.predict_step(batch, batch_idx)
        # Weighted by tokens, so that the mean does not depend on how rows fell into batches. Logged for a batch without
        # any, too: the other ranks would wait forever for one that has only such batches.
        # Times the ranks, because Lightning 2.6.6 divides the weights by them and rounds down.
        weight = batch["num_supervised"] * self.trainer.world_size
        self.log("val/loss", self(batch).mean, batch_size=weight, sync_dist=True, add_dataloader_idx=False)
        return None

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Answers:
        """Answer a batch of questions."""
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Answers:
        """Return the answers to a batch of questions."""
        encoder = self.trainer.datamodule.make_encoder()  # type: ignore[attr-defined]
        return answer_questions(self.model, batch, encoder, self.generation)

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of many forms
        """Return the optimizer and its schedule, one step of it for each optimizer step."""
        # Lightning cannot clip what a fused update unscales by itself.
        optimizer = build_optimizer(
            self.model,
            self.optim_config,
            allows_fused=self.trainer.precision != "16-mixed",
            is_on_host=getattr(self.trainer.strategy, "updates_on_host", False),
        )
        num_steps = count_optimizer_steps(self.trainer)
        schedule = build_schedule(optimizer, num_steps=num_steps, warmup_share=self.optim_config.warmup_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors of a batch, pictures as levels; nothing else is walked through."""
        moved = {key: value.to(device, non_blocking=True) for key, value in batch.items() if isinstance(value, Tensor)}
        return look_up_pixels(cast("Batch", {**batch, **moved}))

    def on_train_start(self) -> None:
        """Start adding up the loss of the first step."""
        self._step_loss = torch.zeros((), device=self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the base models do not hold, which models these are, and how the model is to be asked."""
        bases = self._bases.describe() if self.local_rank == 0 else {}
        learned = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        checkpoint["carried"] = describe_run(getattr(self._trainer, "datamodule", None), bases, learned)
        if not getattr(self.trainer.strategy, "deals_tensors", False):  # then a rank has got its share of them
            checkpoint["state_dict"] = keep_own(checkpoint["state_dict"], self.model, "model.", replaced=self._replaced)

    def find_own(self) -> dict[str, Tensor]:
        """Return the tensors of `keep_own` as this rank holds them, for a strategy that gathers them."""
        return find_own(self.state_dict(keep_vars=True), self.model, "model.", replaced=self._replaced)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights fit before Lightning copies them; a run may go on with other ranks."""
        state, bases = checkpoint["state_dict"], read_bases(checkpoint.get("carried", {}), "checkpoint")
        if self.model is None:  # on the way through load_from_checkpoint
            self.expects_checkpoint = True
            self.configure_model()
        if bases is None and self.expects_checkpoint:  # of an older version, without what init_from brought
            if self.init_from is not None and is_divided(self.model):
                raise InputError(
                    "checkpoint: of an older version, which needs model.init_from beside it, found a strategy that has "
                    "divided the model by now; go on with configs/strategy/ddp.yaml or single.yaml until the next one"
                )
            self._load_initial_weights()
        is_resumed = self._trainer is not None and self._trainer.state.fn == "fit"
        if self.lora is not None:
            check_lora(checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}), self.lora, where="checkpoint")
        needs, learned = None if bases is None else self._replaced, checkpoint.get("carried", {}).get("learned")
        check_kept(state, self.model, "model.", is_resumed=is_resumed, replaced=needs, learned=learned)
        if not is_divided(self.model):  # of one that is, the strategy fills each piece
            take_rows(state, self.model, "model.")
        self._replaced |= {name.removeprefix("model.") for name in state}
        if bases is not None and self.local_rank == 0:
            self._bases.expect(bases, waits=self._trainer is None)
        if is_resumed:
            resplit(checkpoint, self.trainer)

    def _load_initial_weights(self, stream: WeightStream | None = None) -> None:
        if self.init_from is not None:
            self._replaced |= load_initial_weights(self.model, self.init_from, lora=self.lora, stream=stream)

    def _log_step_loss(self, loss: Tensor) -> None:
        """Log the loss of a whole optimizer step: what its micro batches returned, divided as Lightning divides."""
        self._step_loss += loss / self.trainer.accumulate_grad_batches
        if is_step_complete(self.trainer):
            self.log("train/loss", sum_over_ranks(self._step_loss) / self.trainer.world_size, prog_bar=True)
            self._step_loss = torch.zeros_like(self._step_loss)

"""A configuration to the plan of its run: parameters, memory, data, work, time and contradictions.

In: Lightning module and data module that are not set up, and the settings that they were made from. Out: a `RunPlan`.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from types import SimpleNamespace
from typing import Any, cast

from lightning import Trainer

from llava_pl.data.anyres import choose_tiling
from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.models.work import add_up, count_work
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.contradictions import (
    check_features,
    check_global_batch,
    check_lengths,
    check_steps,
    check_strategy,
    check_trainer,
    global_batch,
)
from llava_pl.planning.data_facts import DataFacts, find_excess, read_facts
from llava_pl.planning.memory_plan import MemoryPlan
from llava_pl.planning.run_plan import GIB, Assumptions, RunPlan
from llava_pl.planning.spread import Spread, read_spread
from llava_pl.training.feature_worth import measure_worth
from llava_pl.training.module import LlavaModule
from llava_pl.training.schedule import count_optimizer_steps
from llava_pl.types import ImageGrid, InputError


def plan_run(
    module: LlavaModule,
    data: ConversationDataModule,
    config: Any,  # noqa: ANN401  a namespace of jsonargparse
    assumptions: Assumptions,
) -> RunPlan:
    """Return the plan of a run.

    Args:
        module: Of which `configure_model` was not called. Where its `gradient_checkpointing` is to be chosen, it is;
            full where not even that is enough.
        data: Whose records are counted, if they have not been.
        config: The merged configuration of `fit`, as the user gave it.
        assumptions: What no configuration says.

    Raises:
        InputError: A part of the model has no configuration, or contradicts itself.
    """
    trainer, settings = config.trainer, config.data.init_args
    spread = read_spread(trainer)
    if assumptions.mean_length is not None and assumptions.mean_length > int(settings.max_length):
        raise InputError(
            f"plan: --mean_length: expected at most data.max_length, {settings.max_length}, found "
            f"{assumptions.mean_length:g}"
        )
    grid = _largest_grid(settings, module)
    one_picture = module.num_image_tokens if grid is None else grid.num_tokens(module.num_image_tokens)
    accumulation = int(trainer.accumulate_grad_batches or 1)
    facts = read_facts(
        data,
        max_length=int(settings.max_length),
        num_image_tokens=one_picture,
        num_ranks=spread.num_ranks,
        num_micro_batches=accumulation,
        num_samples=assumptions.num_samples,
        mean_length=assumptions.mean_length,
    )
    decoder, samples_per_step = module.model_config.decoder, global_batch(trainer, data.batch_size)
    lines = check_global_batch([str(path) for path in config.get("config") or []], samples_per_step)
    lines += check_trainer(trainer) + check_strategy(spread, module, trainer)
    is_known = facts.unknown is None
    lines += [facts.unknown] if facts.unknown is not None and facts.is_refused else []
    lines += check_lengths(decoder.path, longest=facts.longest, is_known=is_known, num_image_tokens=one_picture)
    lines += check_steps(facts.num_samples, samples_per_step)
    excess = find_excess(
        data,
        num_ranks=spread.num_ranks,
        num_micro_batches=accumulation,
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
    )
    lines += [excess] if excess else []
    plan = MemoryPlan(module, spread, trainer)
    memory, largest, recompute, refusal = None, None, None, None
    shape = BatchShape(data.batch_size, facts.batch_length, facts.batch_supervised, grid, data.is_packed)
    try:
        recompute = plan.find_recompute(shape, assumptions.limit)
        if decoder.gradient_checkpointing == "auto":
            decoder = replace(decoder, gradient_checkpointing=recompute or "full")
            module.model_config = replace(module.model_config, decoder=decoder)
            module.hparams["decoder"]["gradient_checkpointing"] = decoder.gradient_checkpointing  # for checkpoints
            plan.recompute(decoder.recompute)
        memory, largest = plan.of(shape), plan.find_largest(shape, assumptions.limit)
    except InputError as error:
        refusal = str(error)
        lines.append(refusal)
    # Of samples that nobody has seen, only the least is certain.
    if memory is not None and memory.peak > assumptions.limit and (is_known or not largest):
        advice = f"at most {largest} fit" if largest else "not even one fits: divide the model (fsdp2), or recompute"
        lines.append(
            f"data.batch_size: {data.batch_size} samples of {facts.batch_length} positions need "
            f"{memory.peak / GIB:.2f} GiB on each device, expected at most {assumptions.limit / GIB:.2f}; {advice}"
        )
    mean = BatchShape(1, ceil(facts.mean_length / (1 - facts.padding)), round(facts.mean_supervised), grid)
    work = count_work(plan.model, mean.counts, decoder.recompute)
    per_sample = add_up(work)
    per_step = samples_per_step * (per_sample.forward + per_sample.backward)
    per_epoch, steps = _count_steps(data, facts, trainer, spread)
    features = None
    if data.feature_cache != "none":
        if is_known and steps is not None:
            features = measure_worth(
                module, data, num_steps=steps, num_ranks=spread.num_ranks, num_micro_batches=accumulation
            )
        lines += check_features(spread, module, features, is_checked=data.feature_cache == "worthwhile")
    rate = spread.num_ranks * assumptions.device_tflops * 1e12 * assumptions.mfu
    return RunPlan(
        stage=module.stage,
        spread=spread,
        parts=plan.parts,
        memory=memory,
        host=plan.host,
        num_checkpoints=int(config.keep_checkpoints) + 1,  # a new one is whole before an old one goes
        batch_size=data.batch_size,
        largest_batch=largest,
        recompute=recompute,
        samples_per_step=samples_per_step,
        data=facts,
        work=work,
        work_per_step=per_step,
        steps_per_epoch=per_epoch,
        steps=steps,
        hours=None if steps is None else steps * per_step / rate / 3600,
        assumptions=assumptions,
        contradictions=lines,
        refusal=refusal,
        features=features,
    )


def _largest_grid(settings: Any, module: LlavaModule) -> ImageGrid | None:  # noqa: ANN401  a namespace
    """Return the grid of the picture that becomes most image tokens; None where pictures stay whole."""
    num_tokens = module.num_image_tokens
    path = module.model_config.vision_encoder.path
    tiling = choose_tiling(settings.image_aspect, settings.grid_pinpoints, path, num_tokens)
    if tiling is None:
        return None
    return max((tiling.grid(pinpoint) for pinpoint in tiling.pinpoints), key=lambda grid: grid.num_tokens(num_tokens))


def _count_steps(
    data: ConversationDataModule,
    facts: DataFacts,
    trainer: Any,  # noqa: ANN401  a namespace of jsonargparse
    spread: Spread,
) -> tuple[int | None, int | None]:
    """Return the steps of an epoch and of the run, as far as samples or settings tell."""
    counted: Any = data
    if facts.unknown is not None:
        number = facts.num_samples
        count = lambda world: ceil(ceil((number or 0) / world) / data.batch_size)  # noqa: E731
        counted = None if number is None else SimpleNamespace(count_train_batches=count)
    limit = trainer.overfit_batches or trainer.limit_train_batches
    max_steps, max_epochs = trainer.max_steps, trainer.max_epochs
    if trainer.fast_dev_run:
        limit = max_steps = int(trainer.fast_dev_run)
    if max_epochs is None and max_steps == -1:
        max_epochs = 1000  # Lightning's default
    stand_in = SimpleNamespace(
        datamodule=counted,
        world_size=spread.num_ranks,
        limit_train_batches=1.0 if limit is None else limit,
        max_steps=max_steps,
        max_epochs=max_epochs,
        accumulate_grad_batches=int(trainer.accumulate_grad_batches or 1),
    )
    one_epoch = SimpleNamespace(**{**vars(stand_in), "max_steps": -1, "max_epochs": 1})
    return _steps(one_epoch), _steps(stand_in)


def _steps(trainer: SimpleNamespace) -> int | None:
    try:
        return count_optimizer_steps(cast("Trainer", trainer))
    except InputError:
        return None

"""LightningCLI for LLaVA: linked arguments, one folder per run, the command line above the checkpoint."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.question_dataset import ImageSource
from llava_pl.lifeline import end_with_launcher
from llava_pl.option_parser import OneLineParser
from llava_pl.planning.auto_recompute import ChooseRecompute
from llava_pl.run_config import SaveRunConfig, check_settings
from llava_pl.run_folder import (
    choose_log,
    choose_run_dir,
    claim_folder,
    continued_run,
    find_checkpoint,
    find_or_begin,
    keep_old_logs,
    refuse_other_runs,
)
from llava_pl.run_state import resume_command
from llava_pl.training.background import BackgroundCheckpointIO
from llava_pl.training.callbacks import LossLine, PlanTable
from llava_pl.training.checkpoint_io import DurableCheckpointIO
from llava_pl.training.data_count import DataCount
from llava_pl.training.ledger import Ledger
from llava_pl.training.lost_rank import NameLostRank
from llava_pl.training.meeting import MeetRanks
from llava_pl.training.module import LlavaModule
from llava_pl.training.noise import plain_warnings, silence_noise
from llava_pl.training.processes import find_launcher
from llava_pl.training.run_loggers import complete_loggers
from llava_pl.training.run_record import RunRecord
from llava_pl.training.saving import RunCheckpoint
from llava_pl.training.seeding import SeedSteps
from llava_pl.training.stopping import leave_queue_to_job
from llava_pl.training.throughput import Throughput
from llava_pl.training.wandb_run import continue_wandb_runs
from llava_pl.training.zero import require_deepspeed
from llava_pl.types import InputError

REFUSERS = {"lightning": "trainer", "wandb": "trainer.logger"}
"""Packages that refuse settings by raising, with the part of the configuration that they read."""

CKPT_PATH_HELP = """Where to start from: the path of a checkpoint; 'last': go on with the newest run of this name, or
    with that of --run_dir; 'auto', for fit: go on with the run of --run_dir if it has a checkpoint, else begin it."""


class LlavaCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` of a `LlavaModule` and a data module of llava_pl."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, and what each takes from elsewhere; `--unsafe` stands for Lightning's `weights_only`."""
        return {name: taken | {"weights_only"} for name, taken in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder, and link what model and data must agree on."""
        parser.add_argument("--name", type=str, default="run", help="Name of the run: its folder is runs/NAME/TIME.")
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder of the run, instead of runs/NAME/TIME."
        )
        parser.add_argument(
            "--save_every_minutes",
            type=float | None,
            default=30.0,
            help="Save the run on the way when it has not been saved for so long; it is also saved after each epoch.",
        )
        parser.add_argument(
            "--save_every_n_steps", type=int | None, default=None, help="Save the run after so many optimizer steps."
        )
        parser.add_argument("--keep_checkpoints", type=int, default=2, help="How many checkpoints stay, the newest.")
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="How exactly GPUs multiply float32 matrices: high is TF32, medium bfloat16.",
        )
        parser.add_argument(
            "--blind",
            action="store_true",
            help="Ask every question also with another sample's picture, with a grey one and with none: a model that "
            "scores the same does not look (data.image_sources).",
        )
        parser.add_lightning_class_args(Throughput, "throughput")
        # Pictures that are cut into tiles need a newline embedding in the model; the data module says whether they are.
        parser.link_arguments("data.init_args.image_aspect", "model.has_newline", compute_fn=lambda a: a == "anyres")
        parser.link_arguments("data.init_args.image_start_end", "model.has_image_marks")  # which need rows
        parser.link_arguments("data.init_args.image_patch_token", "model.has_patch_token")
        parser.add_argument(
            "--save_in_background",
            type=bool,
            default=True,
            help="Train on while a checkpoint is written; a copy of it stays in host memory.",
        )
        parser.add_argument(
            "--unsafe",
            action="store_true",
            help="Read a checkpoint (--ckpt_path) that holds pickled objects, and run what code they bring along; for "
            "files of your own alone.",
        )
        parser.link_arguments("model.decoder.path", "data.init_args.tokenizer")
        parser.link_arguments("model.vision_encoder.path", "data.init_args.image_processor")
        parser.link_arguments("model.num_image_tokens", "data.init_args.num_image_tokens", apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401
        """Say what ``--ckpt_path`` means here: Lightning's words for it are not ours."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        next(action for action in parser._actions if action.dest == "ckpt_path").help = CKPT_PATH_HELP
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401  Lightning's union
        """Parse the command line, and check what Lightning would only stumble over later."""
        super().parse_arguments(parser, args)
        check_settings(self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: stock Lightning lets the checkpoint's values overrule the command line."""

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder, before anything expensive is loaded."""
        config = self.config[self.config.subcommand]
        torch.set_float32_matmul_precision(config.float32_matmul_precision)
        if getattr(config.trainer.strategy, "class_path", "").endswith("ZeroStrategy"):
            require_deepspeed()  # of an error of the class itself the parser would make a page
        if config.blind:
            config.data.init_args.image_sources = list(get_args(ImageSource))
        run_dir = config.run_dir or config.trainer.default_root_dir
        is_fit, continued = self.config.subcommand == "fit", None
        given = config.get("ckpt_path")
        if given == "auto" and is_fit:
            config.ckpt_path = find_or_begin(run_dir, config.name)
        elif given:
            config.ckpt_path = find_checkpoint(given, run_dir=run_dir, name=config.name)
        if is_fit and config.ckpt_path:
            continued = continued_run(config.ckpt_path, run_dir, is_last=given == "last")
        if config.model.init_from and not config.get("ckpt_path") and not Path(config.model.init_from).exists():
            raise InputError(f"model.init_from: {config.model.init_from}: no such file; check the path")
        trains_projector_first = is_fit and config.model.stage == "align"
        if not trains_projector_first and not config.model.init_from and not config.get("ckpt_path"):
            rank_zero_warn("neither ckpt_path nor model.init_from is given: the projector has random weights")
        if "verbose" in config:
            config.verbose = False  # reports show the same numbers in a form that fits the screen
        self.is_continued = continued is not None
        self.run_dir = continued or choose_run_dir(run_dir, config.name, config.trainer.num_nodes)
        if is_fit:
            refuse_other_runs(self.run_dir, is_continued=self.is_continued)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401  Trainer's own arguments
        """Return the trainer, with a CSV log and checkpoints in the run's folder unless the configuration says else."""
        run = self.config_init[self.config_init.subcommand]
        self.model.expects_checkpoint = bool(run.get("ckpt_path"))
        config, is_fit = run.trainer, self.subcommand == "fit"
        if config.enable_progress_bar is None and not sys.stdout.isatty():
            config.enable_progress_bar = False  # a file would keep each of its states; `llava-pl runs` shows the last
        self.claim = claim_folder(self.run_dir) if is_fit else None  # the last look before something is written
        log = choose_log(self.run_dir, str(self.subcommand))
        if not self.is_continued and (is_fit or config.logger is not False):
            keep_old_logs(self.run_dir, with_ledger=is_fit, log=log)
        kwargs["logger"] = complete_loggers(config.logger, self.run_dir, log)
        if kwargs["logger"] and is_fit and not config.fast_dev_run:
            continue_wandb_runs(kwargs["logger"], self.run_dir, is_continued=self.is_continued)
        given = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks]
        self.record = RunRecord(
            self.run_dir, str(self.subcommand), sys.argv[1:], run.model.stage, is_continued=self.is_continued
        )
        callbacks: list[Callback] = [self.record, *(callback for callback in given if callback is not None)]
        callbacks += [PlanTable(), LossLine(), DataCount(self.run_dir)]
        callbacks += [MeetRanks(run.get("ckpt_path")), NameLostRank()]
        if is_fit:
            plain = self.config[self.subcommand]
            callbacks += [ChooseRecompute(plain), SeedSteps(int(run.seed_everything or 0)), Ledger(self.run_dir)]
        writer = DurableCheckpointIO(is_unsafe=run.unsafe)
        if is_fit and config.enable_checkpointing is not False:
            # Other callbacks take a checkpoint for whole as soon as they have asked for it.
            is_only_for_stops = any(isinstance(callback, Checkpoint) for callback in callbacks)
            if run.save_in_background and not is_only_for_stops:
                writer = BackgroundCheckpointIO(is_unsafe=run.unsafe)
            saver = RunCheckpoint(
                self.run_dir,
                every_n_steps=run.save_every_n_steps,
                every_minutes=run.save_every_minutes,
                num_kept=run.keep_checkpoints,
                resume_command=resume_command(sys.argv[1:], self.run_dir, find_launcher()),
                is_continued=self.is_continued,
                is_only_for_stops=is_only_for_stops,
            )
            callbacks.append(saver)
        else:
            kwargs["enable_checkpointing"] = False
        config.callbacks = callbacks
        trainer = super().instantiate_trainer(default_root_dir=str(self.run_dir), **kwargs)
        leave_queue_to_job(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # nothing else was configured
            trainer.strategy.checkpoint_io = writer
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command, and write down that it does and how it ends."""
        try:
            with self.record.keep(self.trainer):
                super()._run_subcommand(subcommand)
        finally:
            if self.claim is not None:
                self.claim.close()


def run_lightning(words: list[str], cli_class: type[LlavaCLI] = LlavaCLI) -> LlavaCLI:
    """Parse and run a Lightning command, and return what ran it.

    Args:
        words: The command and its options.
        cli_class: What runs it.

    Raises:
        InputError: What the user gave is wrong.
        SystemExit: The parser refused the words (status 2), or printed help or a configuration (status 0).
    """
    silence_noise()
    end_with_launcher()
    # The words go through sys.argv, because Lightning starts the processes of other devices with what stands there.
    argv, sys.argv = sys.argv, [sys.argv[0], *words]
    try:
        with plain_warnings():
            return cli_class(
                LlavaModule,
                ConversationDataModule,
                subclass_mode_data=True,
                save_config_callback=SaveRunConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                trainer_defaults={"enable_model_summary": False},
                parser_class=OneLineParser,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )
    except InputError:
        raise
    except Exception as error:
        if refused := _input_error_beneath(error):
            raise refused from None
        # What Lightning or wandb refuse with an exception of their own, some of it only when the run starts.
        refuser = _raised_in(error)
        if refuser not in REFUSERS:
            raise
        raise InputError(f"{REFUSERS[refuser]}: {' '.join(str(error).split())}") from error
    except SystemExit as stop:
        # Lightning makes status 1 of Ctrl-C.
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    finally:
        sys.argv = argv


def _input_error_beneath(error: BaseException | None) -> InputError | None:
    """Return the `InputError` that led to an error: jsonargparse puts those of a data module into one of its own."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error


def _raised_in(error: Exception) -> str:
    """Return the package whose code raised an error on purpose: its last line is a ``raise`` there."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package if (last.line or "").startswith("raise ") else ""

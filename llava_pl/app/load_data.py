"""A command line comes in; what `llava-pl fit` would train, and on what, goes out: no weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse import Namespace

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.lightning_cli import LlavaCLI, run_lightning
from llava_pl.training.module import LlavaModule


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a configuration describes.

    Args:
        config: All settings, as they were given.
        module: The Lightning module, without layers.
        data: The data module, which has read nothing yet.
    """

    config: Namespace
    module: LlavaModule
    data: ConversationDataModule


class DataCLI(LlavaCLI):
    """`fit` as far as its data: parser, links and checks are the same, and nothing is trained.

    The Lightning module is made, because it counts the image tokens that the data module is linked to; its layers are
    not (that is `configure_model`'s work), nor are loggers, callbacks and the strategy.
    """

    def before_instantiate_classes(self) -> None:
        """Take out what a trainer alone needs: a logger may want an account."""
        self.given = self.config[self.config.subcommand].clone()
        trainer = self.config[self.config.subcommand].trainer
        trainer.logger, trainer.strategy = False, "auto"  # a strategy may want a package, or a device
        trainer.callbacks = trainer.plugins = trainer.profiler = None

    def instantiate_classes(self) -> None:
        """Make module and data module."""
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")

    def _set_seed(self) -> None:
        """Leave the random generators alone: nothing here draws."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Leave it at that."""


def load_run(words: Sequence[str]) -> RunSettings:
    """Return what a configuration describes.

    Args:
        words: Options of `llava-pl fit`.

    Raises:
        InputError: What the user gave is wrong.
        SystemExit: As `run_lightning`.
    """
    cli = run_lightning(["fit", *words], DataCLI)
    assert isinstance(cli, DataCLI)
    assert isinstance(cli.model, LlavaModule)
    assert isinstance(cli.datamodule, ConversationDataModule)  # the parser takes no other class
    return RunSettings(cli.given, cli.model, cli.datamodule)


def load_data(words: Sequence[str]) -> ConversationDataModule:
    """Return the data module of a configuration; see `load_run`."""
    return load_run(words).data

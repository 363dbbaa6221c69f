"""A command line comes in; the data module that `llava-pl fit` would train on goes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.lightning_cli import LlavaCLI, run_lightning


class DataCLI(LlavaCLI):
    """`fit` as far as its data: parser, links and checks are the same, and nothing is trained.

    The Lightning module is made, because it counts the image tokens that the data module is linked to; its layers are
    not (that is `configure_model`'s work), nor are loggers, callbacks and the strategy.

    Attributes:
        given_trainer: The `trainer` group as the user gave it.
    """

    def before_instantiate_classes(self) -> None:
        """Take out what a trainer alone needs: a logger may want an account."""
        trainer = self.config[self.config.subcommand].trainer
        self.given_trainer = trainer.clone()
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


def load_data(words: Sequence[str]) -> ConversationDataModule:
    """Return the data module that a configuration describes.

    Args:
        words: Options of `llava-pl fit`.

    Raises:
        InputError: What the user gave is wrong.
        SystemExit: As `run_lightning`.
    """
    data = load_run(words).datamodule
    assert isinstance(data, ConversationDataModule)  # the parser takes no other class
    return data


def load_run(words: Sequence[str]) -> DataCLI:
    """Return module and data module that a configuration describes, and the configuration itself.

    Args:
        words: Options of `llava-pl fit`.

    Raises:
        InputError: What the user gave is wrong.
        SystemExit: As `run_lightning`.
    """
    return cast("DataCLI", run_lightning(["fit", *words], DataCLI))

"""The command line's words to a configuration: no guessed options, and errors of one line that says what to do."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from llava_pl.data.asking_datamodule import AskingDataModule
from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.datamodule import LlavaDataModule
from llava_pl.evaluation.scienceqa_datamodule import ScienceQADataModule
from llava_pl.models.adapters import LoraConfig
from llava_pl.parser_errors import explain
from llava_pl.training.stages import TrainablePlan


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line that names key, place and choices, and that guesses no option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the base class's own arguments
        # Otherwise a shortened or mistyped option sets the one that begins like it.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message on one line and exit with status 2."""
        del ex
        sys.stderr.write(f"llava-pl: error: {explain(str(message), sys.argv[1:], _option_names(self))}\n")
        sys.exit(2)


def _option_names(parser: LightningArgumentParser) -> list[str]:
    """Return the options of a command, those of the data modules among them."""
    commands = getattr(parser, "_subcommands_action", None)
    if commands is not None:
        parser = next(iter(commands.choices.values()))
    names = [text[2:] for action in parser._actions for text in action.option_strings if text.startswith("--")]
    for module in (ConversationDataModule, AskingDataModule, LlavaDataModule, ScienceQADataModule):
        names += [f"data.init_args.{name}" for name in inspect.signature(module).parameters if name != "settings"]
    for group, kind in (("trainable", TrainablePlan), ("lora", LoraConfig)):  # None by default, so that they have none
        names += [f"model.{group}.{field.name}" for field in fields(kind)]
    linked = {"tokenizer", "image_processor", "num_image_tokens", "has_newline", "has_image_marks", "has_patch_token"}
    return sorted(name for name in set(names) if name.rpartition(".")[2] not in linked)

"""The configuration reference: every setting with its type, its default and its words, off the real signatures.

In: the parser that `llava-pl fit` uses, and the classes that it only looks into when they are named. Out: a page.
The page is made when the site is built, and is not committed: a copy of docstrings would have to be kept equal to them.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

HEAD = """# All settings

What a configuration file may say, as `llava-pl fit` reads it: this page is made from the signatures and docstrings of
the code when the site is built. A setting `a.b.c` is `c:` under `b:` under `a:` in a file, and `--a.b.c VALUE` on the
command line. `llava-pl fit --help all` lists the same in a terminal, and `llava-pl fit --data.help LlavaDataModule` the
settings of one class. How files compose: `configs/README.md`.

Six arguments are never written, because the program takes them from elsewhere: `data.init_args.tokenizer` and
`.image_processor` from the paths of the model, `.num_image_tokens` from its connector, `model.has_newline`,
`.has_image_marks` and `.has_patch_token` from the data.
"""

LINKED = {
    "model.has_newline", "model.has_image_marks", "model.has_patch_token",
    "data.init_args.tokenizer", "data.init_args.image_processor", "data.init_args.num_image_tokens",
}  # fmt: skip
"""What the command line takes from elsewhere."""

TRAINER = """## `trainer`

Lightning's own `Trainer`; its settings are in Lightning's documentation and in `llava-pl fit --help all`. Those that
the experiments set: `max_epochs`, `max_steps`, `precision`, `accelerator`, `devices`, `num_nodes`, `strategy`,
`accumulate_grad_batches`, `gradient_clip_val`, `log_every_n_steps`, `val_check_interval`, `callbacks`, `logger`.
"""

_RUN_LEVEL = (
    "name", "run_dir", "ckpt_path", "seed_everything", "save_every_minutes", "save_every_n_steps", "keep_checkpoints",
    "save_in_background", "float32_matmul_precision", "blind", "unsafe", "throughput.peak_tflops",
)  # fmt: skip

_MODEL_GROUPS = ("vision_encoder", "decoder", "optim", "generation")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the page.

    Args:
        name: As a file or a flag has it.
        kind: What it may be.
        default: As YAML would write it, or "required".
        text: What it does.
    """

    name: str
    kind: str
    default: str
    text: str


def write_settings() -> str:
    """Return the page."""
    parts = [HEAD]
    for title, words, settings in collect_settings():
        parts += [f"## {title}\n", *([f"{words}\n"] if words else []), _table(settings)]
        if title.startswith("`model.generation"):
            parts.append(TRAINER)
    return "\n".join(parts)


def collect_settings() -> Iterator[tuple[str, str, list[Setting]]]:
    """Yield the sections: a title, a sentence, and the settings."""
    from llava_pl import LlavaDataModule, ScienceQADataModule
    from llava_pl.app.completion_command import lightning_parsers
    from llava_pl.data.asking_datamodule import AskingDataModule
    from llava_pl.data.mixture import SourceConfig
    from llava_pl.evaluation.benchmarks import TASKS, find_task
    from llava_pl.models.adapters import LoraConfig
    from llava_pl.training.stages import TrainablePlan
    from llava_pl.training.strategies import FSDP2Strategy
    from llava_pl.training.zero import ZeroStrategy

    found = {setting.name: setting for setting in _of_parser(lightning_parsers()["fit"])}

    def group(prefix: str) -> list[Setting]:
        return [setting for name, setting in found.items() if name.startswith(prefix)]

    nested = tuple(f"model.{name}." for name in _MODEL_GROUPS)
    yield "A run", "Beside the groups below; flags without a dot.", [found[name] for name in _RUN_LEVEL]
    yield "`model`", "", [setting for setting in group("model.") if not setting.name.startswith(nested)]
    for name in _MODEL_GROUPS[:2]:
        yield f"`model.{name}`", "", group(f"model.{name}.")
    plan = "In place of what `model.stage` implies (`docs/training.md`)."
    yield "`model.trainable`", plan, _of_class(TrainablePlan, "model.trainable")
    yield "`model.lora`", "Of the parts that `model.trainable` trains by LoRA.", _of_class(LoraConfig, "model.lora")
    yield "`model.optim`", "", group("model.optim.")
    yield "`model.generation`", "How questions are answered (`docs/evaluation.md`).", group("model.generation.")
    shared = {setting.name: setting for setting in _of_class(AskingDataModule, "data.init_args")}
    folder = shared.pop("data.init_args.image_folder")  # ScienceQA's data module takes its root for it
    for kind in (LlavaDataModule, ScienceQADataModule):
        own = [setting for setting in _of_class(kind, "data.init_args") if setting.name not in {*shared, folder.name}]
        own += [folder] if kind is LlavaDataModule else []
        yield f"`data`: `llava_pl.{kind.__name__}`", f"With `class_path: llava_pl.{kind.__name__}`.", own
    yield "`data`: both", "", list(shared.values())
    item = 'Each file of a mixture (`configs/README.md`, "Training data").'
    yield "`data.init_args.records[]`", item, _of_mapping(SourceConfig, "data.init_args.records[]")
    for kind in (FSDP2Strategy, ZeroStrategy):
        path = f"{kind.__module__}.{kind.__name__}"
        yield (
            f"`trainer.strategy`: `{kind.__name__}`",
            f"With `class_path: {path}`.",
            _own(kind, "trainer.strategy.init_args"),
        )
    for name in TASKS:
        task = find_task(name)
        path = f"{task.__module__}.{task.__name__}"
        yield f"`data.init_args.tasks[]`: `{name}`", f"With `class_path: {path}`.", _of_class(task, "init_args")


def _own(kind: type, prefix: str) -> list[Setting]:
    """Return the settings that a class takes itself, without those of its base."""
    own = set(inspect.signature(kind).parameters)
    return [setting for setting in _of_class(kind, prefix) if setting.name.rpartition(".")[2] in own]


def _of_class(kind: Callable[..., Any], prefix: str) -> list[Setting]:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, prefix, fail_untyped=False)
    return _of_parser(parser)


def _of_mapping(kind: type, prefix: str) -> list[Setting]:
    """Return the settings of a TypedDict, whose words are the arguments in its docstring."""
    words = dict(re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", kind.__doc__ or "", re.MULTILINE))
    settings = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        is_optional = get_origin(hint) is NotRequired
        described = describe_type(get_args(hint)[0] if is_optional else hint)
        settings.append(
            Setting(f"{prefix}.{name}", described, "" if is_optional else "required", _one_line(words[name]))
        )
    return settings


def _of_parser(parser: Any) -> list[Setting]:  # noqa: ANN401
    from jsonargparse import SUPPRESS

    settings = []
    for action in parser._actions:
        name = str(action.dest)
        kind = getattr(action, "_typehint", None) or action.type
        if name in LINKED or name.endswith(".help") or name in ("help", "config", "print_config"):
            continue
        if kind is None and action.default is SUPPRESS:  # the head of a group
            continue
        if isinstance(action.default, bool) and kind is None:
            kind = bool
        default = "required" if _is_required(parser, action) else _plain(action.default)
        settings.append(Setting(name, describe_type(kind), default, _one_line(action.help)))
    return settings


def _is_required(parser: Any, action: Any) -> bool:  # noqa: ANN401
    return bool(action.required) or action.dest in getattr(parser, "required_args", ())


def describe_type(kind: object) -> str:
    """Return a type as a reader of YAML would say it."""
    if kind is None or kind is type(None):
        return "null"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(str(word) for word in inner)
    if origin in (Union, types.UnionType):
        names = [describe_type(each) for each in inner]
        if "path" in names and "str" in names:
            names.remove("path")
        return " | ".join(dict.fromkeys(names))
    if origin is None:
        names = {"Path": "path", "Any": "anything"}
        name = getattr(kind, "__name__", str(kind).rpartition(".")[2])
        return names.get(name, name)
    if origin is dict:
        return "dict"
    if origin is tuple:
        return f"[{', '.join(describe_type(each) for each in inner)}]"
    inside = describe_type(inner[0]) if inner else ""
    if origin.__name__ in ("list", "Sequence"):
        return f"list of ({inside})" if "|" in inside else f"list of {inside}"
    return inside or origin.__name__


def _plain(value: object) -> str:
    from jsonargparse import SUPPRESS

    if value is None or value is SUPPRESS:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(each) for each in value)}]"
    return str(value)


def _one_line(text: str | None) -> str:
    words = " ".join((text or "").split())
    return re.sub(r" \((?:type|default|required)[^()]*\)$", "", words)


def _table(settings: list[Setting]) -> str:
    """Return a table; the words are escaped, since `<im_patch>` would be a tag of HTML."""
    rows = ["| setting | default | |", "| --- | --- | --- |"]
    for setting in settings:
        default = f"`{setting.default}`" if setting.default not in ("required", "") else setting.default
        rows.append(f"| `{setting.name}`<br>{_escape(setting.kind)} | {default} | {_escape(setting.text)} |")
    return "\n".join(rows) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")

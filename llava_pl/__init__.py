"""LLaVA as a PyTorch Lightning research codebase.

Importing the package imports no torch: the public names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_pl.data import LlavaDataModule
    from llava_pl.evaluation.scienceqa_datamodule import ScienceQADataModule
    from llava_pl.export import load_pretrained
    from llava_pl.training import LlavaModule

__version__ = "0.1.0"

_HOMES = {
    "LlavaDataModule": "llava_pl.data",
    "ScienceQADataModule": "llava_pl.evaluation.scienceqa_datamodule",
    "load_pretrained": "llava_pl.export",
    "LlavaModule": "llava_pl.training",
}

__all__ = ["LlavaDataModule", "LlavaModule", "ScienceQADataModule", "__version__", "load_pretrained"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  a module attribute may be anything
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

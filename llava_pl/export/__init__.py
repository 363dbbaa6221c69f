"""Files to models and back: transformers folders, the original LLaVA layout, this project's checkpoints."""

from llava_pl.export.layouts import load_pretrained
from llava_pl.export.pretrained import Pretrained

__all__ = ["Pretrained", "load_pretrained"]

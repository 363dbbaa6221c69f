"""Files to models and back: transformers folders, the original LLaVA layout, this project's checkpoints."""

from llava_pl.export.pretrained import Pretrained, load_pretrained

__all__ = ["Pretrained", "load_pretrained"]

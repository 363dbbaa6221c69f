"""The Lightning side of a run: what trains, how fast, what is saved."""

from llava_pl.training.module import LlavaModule

__all__ = ["LlavaModule"]

"""A tokenizer to one that knows the marks of pictures. The data modules and the model must agree on the ids.

In: a tokenizer as it was saved. Out: the same object, grown, and the ids that are new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_pl.types import IMAGE_END, IMAGE_PATCH, IMAGE_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def add_image_tokens(
    tokenizer: PreTrainedTokenizerBase, *, image_patch_token: bool = False, image_start_end: bool = False
) -> list[int]:
    """Add those of ``<im_patch>``, ``<im_start>`` and ``<im_end>``, in this order, that are asked for and lacking.

    LLaVA: the order of `initialize_vision_tokenizer`, which gives the ids.

    Args:
        tokenizer: Changed in place.
        image_patch_token: Whether ``<im_patch>`` is asked for.
        image_start_end: Whether ``<im_start>`` and ``<im_end>`` are.

    Returns:
        The ids of the added tokens, ascending.
    """
    wanted = [IMAGE_PATCH] * image_patch_token + [IMAGE_START, IMAGE_END] * image_start_end
    known = tokenizer.get_vocab()
    new = [token for token in wanted if token not in known]
    if new:
        tokenizer.add_tokens(new, special_tokens=True)
    known = tokenizer.get_vocab()
    return [known[token] for token in new]

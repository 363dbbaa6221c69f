"""Image features into the sequence: the one place where pictures and words meet.

In: ``inputs_embeds`` ``(B, T, D)`` of the words, ``image_features`` ``(N, P, D)``, or ``(M, D)`` of tiled pictures.
Out: ``inputs_embeds`` with the image tokens filled in.
"""

from __future__ import annotations

import torch
from torch import Tensor


def splice(inputs_embeds: Tensor, image_features: Tensor, is_image: Tensor) -> Tensor:
    """Return the embeddings with the image tokens replaced by the image features, row by row in order.

    The guard matters: with one feature too many, `masked_scatter` silently shifts every later picture by a token; with
    one too few it reads past the end. On CPU the guard is a `ValueError` that gives both counts; on a device it is an
    asynchronous assertion, because reading the count back would stall the step. The collator has counted already.

    Args:
        inputs_embeds: float ``(B, T, D)``.
        image_features: float ``(N, P, D)``, or ``(M, D)`` of tiled pictures; cast to the dtype of the embeddings.
        is_image: bool ``(B, T)``, true at image tokens.

    Returns:
        float ``(B, T, D)``, a new tensor.

    Raises:
        ValueError: The image tokens are not exactly as many as the features.
    """
    num_features = image_features.shape[:-1].numel()
    num_image_tokens = is_image.sum()
    if is_image.device.type == "cpu":
        if int(num_image_tokens) != num_features:
            pictures = " ({} pictures of {})".format(*image_features.shape) if image_features.ndim == 3 else ""
            raise ValueError(
                f"splice: {int(num_image_tokens)} image tokens in input_ids, but {num_features} image features"
                f"{pictures}; expected equal numbers"
            )
    else:
        torch._assert_async(
            num_image_tokens == num_features, "splice: image tokens and image features differ in number"
        )
    # (N, P, D) or (M, D) and the true positions of (B, T) are in row-major order, so features land in reading order.
    return inputs_embeds.masked_scatter(is_image.unsqueeze(-1), image_features.to(inputs_embeds.dtype))

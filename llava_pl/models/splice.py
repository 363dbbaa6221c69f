"""Image features into the sequence: the one place where pictures and words meet.

In: ``inputs_embeds`` ``(B, T, D)`` of the words, ``image_features`` ``(N, P, D)``, or ``(M, D)`` of tiled pictures.
Out: ``inputs_embeds`` with the image tokens filled in.
"""

from __future__ import annotations

from torch import Tensor

from llava_pl.models.positions import find_positions


def splice(inputs_embeds: Tensor, image_features: Tensor, is_image: Tensor) -> Tensor:
    """Return the embeddings with the image tokens replaced by the image features, row by row in order.

    The guard matters: with one feature too many or too few, every later picture would be shifted by a token. The
    collator has counted already.

    Args:
        inputs_embeds: float ``(B, T, D)``.
        image_features: float ``(N, P, D)``, or ``(M, D)`` of tiled pictures; cast to the dtype of the embeddings.
        is_image: bool ``(B, T)``, true at image tokens.

    Returns:
        float ``(B, T, D)``, a new tensor.

    Raises:
        ValueError: The image tokens are not exactly as many as the features; on a device, an asynchronous assertion.
    """
    num_features = image_features.shape[:-1].numel()
    pictures = " ({} pictures of {})".format(*image_features.shape) if image_features.ndim == 3 else ""
    complaint = f"image tokens in input_ids, but {num_features} image features{pictures}; expected equal numbers"
    positions = find_positions(is_image, num_features, f"splice: {{}} {complaint}")
    # (N, P, D) or (M, D) and the true positions of (B, T) are in row-major order, so features land in reading order.
    features = image_features.reshape(num_features, inputs_embeds.shape[-1]).to(inputs_embeds.dtype)
    # No view of another tensor: the first layer would be compiled apart, because what the others are given is none.
    return inputs_embeds.index_put((positions // is_image.shape[1], positions % is_image.shape[1]), features)

"""A decoder to one with rows for tokens that it has never seen.

In: the ids of the new tokens. Out: tables of word embeddings and of the head with a row for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llava_pl.models.adapters import new_rows, plain_table
from llava_pl.models.decoder import CausalDecoder


def add_rows(decoder: CausalDecoder, token_ids: Sequence[int]) -> None:
    """Give each new token the mean of the rows before it, in the word embeddings and, where it is not tied, the head.

    A table that was padded to a round size has spare rows, which are used; one without them grows. Unlike LLaVA, which
    shrinks a padded table, and leaves ``<im_patch>`` as it was drawn when it is the only new token.

    Args:
        decoder: Changed in place, before it has adapters.
        token_ids: Ids of tokens that it was not trained with; every smaller id is one that it was trained with.
    """
    if not token_ids:
        return
    num_known, num_rows = min(token_ids), max(token_ids) + 1
    if num_rows > decoder.num_embeddings:
        decoder.model.resize_token_embeddings(num_rows, mean_resizing=False)
    with torch.no_grad():
        for table in {id(layer.weight): layer.weight for layer in (decoder.embedding, decoder.head)}.values():
            table[list(token_ids)] = table[:num_known].float().mean(dim=0).to(table.dtype)


def set_rows(decoder: CausalDecoder, token_ids: Sequence[int], rows: Tensor) -> None:
    """Overwrite the word embeddings of new tokens with rows ``(new tokens, D)``, wherever they are held."""
    with torch.no_grad():
        plain_table(decoder.embedding).weight[list(token_ids)] = rows.to(plain_table(decoder.embedding).weight)
        if (learned := new_rows(decoder.embedding)) is not None:
            learned.copy_(rows)

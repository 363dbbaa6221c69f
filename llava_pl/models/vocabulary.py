"""A decoder to one with rows for tokens that it has never seen.

In: the ids of the new tokens. Out: tables of word embeddings and of the head with a row for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from llava_pl.models.adapters import learned_rows, plain_name, plain_table
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError

NEW_ROWS = ".new_rows"
"""Behind the name of a table: its rows of new tokens alone, in the order of their ids, as a checkpoint holds them."""


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


def row_tables(model: LlavaModel) -> dict[str, nn.Module]:
    """Return the layers with a row for each new token, by the names that these rows have in a checkpoint.

    They are the head and the word embeddings, these alone where both are tied; none where no token is new.
    """
    if not model.new_token_ids:
        return {}
    decoder = cast("CausalDecoder", model.decoder)
    names = {id(parameter): plain_name(name) for name, parameter in model.named_parameters()}
    # The second of two that are tied takes the place of the first.
    return {names[id(plain_table(layer).weight)] + NEW_ROWS: layer for layer in (decoder.head, decoder.embedding)}


def set_rows(layer: nn.Module, token_ids: Sequence[int], rows: Tensor) -> None:
    """Overwrite the rows ``(new tokens, D)`` of new tokens in a table, wherever they are held."""
    table = plain_table(layer).weight
    with torch.no_grad():
        table[list(token_ids)] = rows.to(table)
        if (learned := learned_rows(layer)) is not None:
            learned.copy_(rows)


def check_vocabulary(model: LlavaModel, num_tokens: int, path: str) -> None:
    """Check that a decoder has a row for each token of its tokenizer.

    Args:
        model: With the decoder.
        num_tokens: That the tokenizer knows.
        path: Where the decoder is.

    Raises:
        InputError: There are too few.
    """
    if num_tokens > model.decoder.num_embeddings:
        raise InputError(
            f"model.decoder.path: {path}: its tokenizer knows {num_tokens} tokens, its decoder "
            f"{model.decoder.num_embeddings}; remove the added tokens, or give the decoder rows for them"
        )

"""Whole tensors of a model that is divided among ranks, and back.

In: pieces, each rank its own. Out: whole tensors, each on one rank and all ranks about equally full; or pieces that
were filled from whole tensors. This is the one way from a divided model to a checkpoint and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

Key = TypeVar("Key")
Value = TypeVar("Value")


def gather(
    sizes: Mapping[Key, int], make_whole: Callable[[Key, bool], Value], rank: int, num_ranks: int
) -> dict[Key, Value]:
    """Return the whole values that a rank is given, made one after the other; all ranks take part in each.

    Args:
        sizes: Bytes of each, the same ones in the same order on all ranks.
        make_whole: Makes one; told whether this rank keeps it, and need return nothing otherwise.
        rank: This one.
        num_ranks: R, all of them.
    """
    kept = {}
    for key, owner in zip(sizes, _deal(list(sizes.values()), num_ranks), strict=True):
        value = make_whole(key, owner == rank)
        if owner == rank:
            kept[key] = value
    return kept


def gather_weights(pieces: Mapping[str, Tensor], rank: int, num_ranks: int) -> dict[str, Tensor]:
    """Return the whole tensors that a rank is given, in host memory of their own; all ranks take part.

    Args:
        pieces: By name, the same names in the same order on all ranks.
        rank: This one.
        num_ranks: R, all of them.
    """
    sizes = {name: piece.nbytes for name, piece in pieces.items()}
    return gather(sizes, lambda name, is_kept: _whole(pieces[name], is_kept=is_kept), rank, num_ranks)


def gather_optimizer(state_dict: Mapping[str, Any], rank: int, num_ranks: int) -> dict[str, Any]:
    """Return an optimizer's state with the states of those parameters that a rank is given; all ranks take part.

    Args:
        state_dict: As `torch.optim.Optimizer.state_dict` gives it.
        rank: This one.
        num_ranks: R, all of them.
    """
    states = state_dict["state"]
    sizes = {n: sum(v.nbytes for v in state.values() if isinstance(v, Tensor)) for n, state in states.items()}

    def make_whole(number: int, is_kept: bool) -> dict[str, Any]:
        return {
            name: _whole(value, is_kept=is_kept) if isinstance(value, Tensor) else value
            for name, value in states[number].items()
        }

    return {**state_dict, "state": gather(sizes, make_whole, rank, num_ranks)}


def fill(piece: Tensor, whole: Tensor) -> None:
    """Copy this rank's part of a whole tensor into its piece; no rank waits for another."""
    with torch.no_grad():
        if isinstance(piece, DTensor):
            piece.to_local().copy_(_cut(whole, piece))
        else:
            piece.copy_(whole)


def fill_rows(table: Tensor, token_ids: Sequence[int], rows: Tensor) -> None:
    """Copy those of some rows ``(n, D)`` that lie in this rank's piece of a table; no rank waits for another."""
    local, first = (table.to_local(), _first_row(table)) if isinstance(table, DTensor) else (table, 0)
    with torch.no_grad():
        for token_id, row in zip(token_ids, rows, strict=True):
            if first <= token_id < first + len(local):
                local[token_id - first].copy_(row)


def divide_optimizer(state_dict: Mapping[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """Return an optimizer's state with each whole tensor cut as its parameter is.

    Args:
        state_dict: As a checkpoint holds it.
        parameters: In the order of the optimizer's groups, which their numbers count.
    """

    def cut(value: Any, parameter: Tensor) -> Any:  # noqa: ANN401  tensors and plain values
        if not isinstance(value, Tensor) or not isinstance(parameter, DTensor) or value.shape != parameter.shape:
            return value
        local = _cut(value, parameter).to(parameter.device)
        return DTensor.from_local(
            local,
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )

    states = {
        number: {name: cut(value, parameters[number]) for name, value in state.items()}
        for number, state in state_dict["state"].items()
    }
    return {**state_dict, "state": states}


def _deal(sizes: list[int], num_ranks: int) -> list[int]:
    """Return for each size the rank that gets it: the one that has least so far."""
    loads, owners = [0] * num_ranks, []
    for size in sizes:
        owners.append(loads.index(min(loads)))
        loads[owners[-1]] += size
    return owners


def _whole(piece: Tensor, *, is_kept: bool) -> Tensor:
    local, whole = (piece.to_local(), piece.full_tensor()) if isinstance(piece, DTensor) else (piece, piece)
    own = to_host(whole, is_kept=is_kept)
    # The next step must not change what is being written.
    return own.clone() if own.data_ptr() == local.data_ptr() else own


def to_host(whole: Tensor, *, is_kept: bool) -> Tensor:
    """Return a tensor in host memory, or an empty one where it is not kept."""
    return whole.detach().cpu() if is_kept else whole.new_empty(0)


def _first_row(piece: DTensor) -> int:
    """Return which row of the whole a piece begins with, as `torch.chunk` divides."""
    return ceil(len(piece) / piece.device_mesh.size()) * piece.device_mesh.get_local_rank()


def _cut(whole: Tensor, like: DTensor) -> Tensor:
    """Return this rank's part of a whole tensor; of a file that is mapped into memory, no more than that is read."""
    (placement,) = like.placements
    if not isinstance(placement, Shard):
        return whole
    # As `fully_shard` divides: the last ranks may have less than the others, or nothing.
    parts = whole.chunk(like.device_mesh.size(), placement.dim)
    rank = like.device_mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole.narrow(placement.dim, 0, 0)

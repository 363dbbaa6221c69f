"""Whole tensors of a model that is divided among ranks, and back.

In: pieces, each rank its own. Out: whole tensors, each on one rank and all ranks about equally full; or pieces that
were filled from whole tensors. This is the one way from a divided model to a checkpoint and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def gather_weights(pieces: Mapping[str, Tensor], rank: int, num_ranks: int) -> dict[str, Tensor]:
    """Return the whole tensors that a rank is given, in host memory; all ranks take part.

    Args:
        pieces: By name, the same names in the same order on all ranks.
        rank: This one.
        num_ranks: R, all of them.
    """
    owners = _deal([piece.nbytes for piece in pieces.values()], num_ranks)
    kept = {}
    for (name, piece), owner in zip(pieces.items(), owners, strict=True):
        whole = _whole(piece)
        if owner == rank:
            kept[name] = whole.detach().cpu()
    return kept


def gather_optimizer(state_dict: Mapping[str, Any], rank: int, num_ranks: int) -> dict[str, Any]:
    """Return an optimizer's state with the states of those parameters that a rank is given; all ranks take part.

    Args:
        state_dict: As `torch.optim.Optimizer.state_dict` gives it.
        rank: This one.
        num_ranks: R, all of them.
    """
    states = state_dict["state"]
    sizes = [sum(v.nbytes for v in state.values() if isinstance(v, Tensor)) for state in states.values()]
    kept: dict[int, dict[str, Any]] = {}
    for (number, state), owner in zip(states.items(), _deal(sizes, num_ranks), strict=True):
        wholes = {name: _whole(value) if isinstance(value, Tensor) else value for name, value in state.items()}
        if owner == rank:
            kept[number] = {n: v.detach().cpu() if isinstance(v, Tensor) else v for n, v in wholes.items()}
    return {**state_dict, "state": kept}


def fill(piece: Tensor, whole: Tensor) -> None:
    """Copy this rank's part of a whole tensor into its piece; no rank waits for another."""
    with torch.no_grad():
        if isinstance(piece, DTensor):
            piece.to_local().copy_(_cut(whole, piece))
        else:
            piece.copy_(whole)


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


def _whole(piece: Tensor) -> Tensor:
    return piece.full_tensor() if isinstance(piece, DTensor) else piece


def _cut(whole: Tensor, like: DTensor) -> Tensor:
    """Return this rank's part of a whole tensor; of a file that is mapped into memory, no more than that is read."""
    (placement,) = like.placements
    if not isinstance(placement, Shard):
        return whole
    # As `fully_shard` divides: the last ranks may have less than the others, or nothing.
    parts = whole.chunk(like.device_mesh.size(), placement.dim)
    rank = like.device_mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole.narrow(placement.dim, 0, 0)

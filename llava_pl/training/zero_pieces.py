"""Whole tensors of a model that DeepSpeed's ZeRO divides, and back.

In: an engine of DeepSpeed, its parameters in pieces. Out: what `pieces.py` gives of other divided models, whole tensors
each on one rank; or pieces that were filled from whole tensors. The weights are those that the optimizer holds, in
float32, also where the forward pass has a copy of them in 16 bits.

What is not in DeepSpeed's documentation is used here and in no other file: `ds_tensor`, the piece of a parameter under
ZeRO-3, and the flat tensors that the optimizer sees in place of parameters (one per group, or several under ZeRO-3).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llava_pl.models.division import whole_shape
from llava_pl.training.pieces import gather, to_host


def gather_zero_weights(parameters: Mapping[str, Tensor], rank: int, num_ranks: int) -> dict[str, Tensor]:
    """Return the whole weights that a rank is given, in host memory; all ranks take part.

    Args:
        parameters: By name, frozen ones among them.
        rank: This one.
        num_ranks: R, all of them.
    """
    from deepspeed import zero as deepspeed_zero
    from deepspeed.utils import safe_get_full_fp32_param

    def make_whole(name: str, is_kept: bool) -> Tensor:
        parameter = parameters[name]
        if parameter.requires_grad:
            return to_host(safe_get_full_fp32_param(parameter), is_kept=is_kept)
        with deepspeed_zero.GatheredParameters([parameter]):  # it does nothing to one that is whole
            return to_host(parameter, is_kept=is_kept).clone()

    sizes = {name: 4 * whole_shape(parameter).numel() for name, parameter in parameters.items()}
    return gather(sizes, make_whole, rank, num_ranks)


def gather_zero_optimizer(
    zero: Any,  # noqa: ANN401  a class of DeepSpeed, which is imported where it is used alone
    groups: Sequence[Sequence[nn.Parameter]],
    rank: int,
    num_ranks: int,
) -> dict[str, Any]:
    """Return an optimizer's state as torch's own would be, with the states of those parameters that a rank is given.

    Args:
        zero: DeepSpeed's wrapper around the optimizer.
        groups: The parameters of each group, in the order that numbers them.
        rank: This one.
        num_ranks: R, all of them.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(zero)
    first_flat = _flats(zero)[0]
    held = zero.optimizer.state.get(first_flat, {})
    parameters = [parameter for group in groups for parameter in group]
    names = [name for name, value in held.items() if _is_elementwise(value, first_flat)]
    plain = {name: value for name, value in held.items() if name not in names}  # the same for all parameters

    def make_whole(number: int, is_kept: bool) -> dict[str, Any]:
        wholes = {
            name: to_host(safe_get_full_optimizer_state(parameters[number], name), is_kept=is_kept) for name in names
        }
        # torch counts steps in a tensor, one for each parameter; DeepSpeed's own optimizers in a number.
        own = {name: torch.tensor(float(value)) if name == "step" else value for name, value in plain.items()}
        return {**copy.deepcopy(own), **wholes}

    sizes = {number: whole_shape(parameter).numel() for number, parameter in enumerate(parameters) if held}
    settings, first = [], 0
    for group, own in zip(zero.optimizer.param_groups, groups, strict=True):
        numbers = list(range(first, first + len(own)))
        settings.append({**{name: value for name, value in group.items() if name != "params"}, "params": numbers})
        first += len(own)
    return {"state": gather(sizes, make_whole, rank, num_ranks), "param_groups": settings}


def fill_zero(parameter: nn.Parameter, whole: Tensor) -> None:
    """Copy this rank's part of a whole tensor into a parameter, and into what the optimizer holds of it."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    with torch.no_grad():
        if not hasattr(parameter, "ds_tensor"):
            parameter.copy_(whole)
            safe_set_full_fp32_param(parameter, whole)  # does nothing in an evaluation, which has no optimizer
            return
        part = _cut(whole, parameter)
        parameter.ds_tensor.copy_(part)
        if parameter.requires_grad and hasattr(parameter, "_z3_optimizer"):
            safe_set_local_fp32_param(parameter, part)
        if parameter.numel() == whole.numel():  # small ones stay gathered
            parameter.copy_(whole)


def fill_zero_rows(table: nn.Parameter, token_ids: Sequence[int], rows: Tensor) -> None:
    """Copy some tokens' rows ``(n, D)`` into a table that does not learn; all ranks take part."""
    from deepspeed import zero as deepspeed_zero

    with deepspeed_zero.GatheredParameters([table], modifier_rank=0), torch.no_grad():
        table[list(token_ids)] = rows.to(table)


def fill_zero_optimizer(zero: Any, groups: Sequence[Sequence[nn.Parameter]], state_dict: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Fill an optimizer's state of this rank's pieces.

    Args:
        zero: DeepSpeed's wrapper around the optimizer.
        groups: The parameters of each group, in the order that numbers them.
        state_dict: As a checkpoint holds it.
    """
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    for group, saved in zip(zero.optimizer.param_groups, state_dict["param_groups"], strict=True):
        # How an update is computed depends on the device; what it does, the checkpoint says.
        group.update({name: saved[name] for name in group.keys() & saved.keys() - {"params", "fused", "foreach"}})
    parameters = [parameter for group in groups for parameter in group]
    states = state_dict["state"]
    if not states:
        return
    first, like = next(iter(states.items()))
    shape = whole_shape(parameters[first])
    names = [name for name, value in like.items() if isinstance(value, Tensor) and value.shape == shape and value.ndim]
    for flat in _flats(zero):
        state = {name: torch.zeros_like(flat, requires_grad=False) for name in names}
        plain = {name: _place(name, value, flat, zero.optimizer) for name, value in like.items() if name not in names}
        zero.optimizer.state[flat] = {**plain, **state}
    _link(zero)
    is_stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
    for number, state in states.items():
        for name in names:
            if is_stage_3:
                safe_set_local_optimizer_state(parameters[number], _cut(state[name], parameters[number]), name)
            else:
                safe_set_full_optimizer_state(parameters[number], state[name], name)


def _flats(zero: Any) -> list[Tensor]:  # noqa: ANN401
    """Return the tensors that the optimizer sees in place of the parameters."""
    flats: list[Tensor] = getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups
    return flats


def _link(zero: Any) -> None:  # noqa: ANN401
    """Have stage 2 look up which part of the optimizer's state is which parameter's.

    DeepSpeed 0.19.8 does so once, after the first group's first step, when the other groups have no state yet.
    """
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _is_elementwise(value: Any, flat: Tensor) -> bool:  # noqa: ANN401
    return isinstance(value, Tensor) and value.shape == flat.shape


def _place(name: str, value: Any, flat: Tensor, optimizer: torch.optim.Optimizer) -> Any:  # noqa: ANN401
    """Return a state that is no tensor of weights, in the form that an optimizer keeps it."""
    if name != "step":
        return copy.deepcopy(value)
    if type(optimizer).__module__.startswith("deepspeed."):
        return int(value)
    is_fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return torch.tensor(float(value), device=flat.device if is_fused else "cpu")


def _cut(whole: Tensor, parameter: Any) -> Tensor:  # noqa: ANN401  a parameter with what DeepSpeed has put on it
    """Return this rank's part of a whole tensor, zeros behind its end where ranks have more room."""
    num_here = parameter.ds_tensor.numel()
    start = min(num_here * parameter.ds_zero_partition_rank, whole.numel())
    values = whole.reshape(-1)[start : start + num_here]
    part = torch.zeros(num_here, dtype=whole.dtype)
    part[: len(values)] = values
    return part

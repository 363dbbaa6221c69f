"""Parameters that lie in pieces on several devices, as PyTorch's FSDP2 and DeepSpeed's ZeRO-3 leave them.

In: a parameter or a module. Out: what it is as a whole, whoever divided it. Neither library is imported for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def whole_shape(parameter: Tensor) -> torch.Size:
    """Return the shape of a parameter as if it were not divided; ZeRO-3 leaves an empty tensor in its place.

    >>> whole_shape(torch.zeros(2, 3))
    torch.Size([2, 3])
    """
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def is_divided(module: nn.Module) -> bool:
    """Whether parameters of a module lie in pieces, so that ranks must run it equally often."""
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_shape") for parameter in module.parameters())

"""Less time for the same work: norms, rotations and gated products of a decoder as one kernel each, by Liger.

In: a model of transformers on a GPU. Out: the same model with the same parameters under the same names. Kernels add up
in another order than torch does, so that results differ by roundings; the loss is made as without them. Not run on a
GPU yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from llava_pl.packages import is_installed
from llava_pl.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FusedKernels = Literal["none", "liger"]

KERNELS = {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""What Liger takes over. Its fused loss would give every position to the head, where the supervised ones are few."""


def check_liger(device_type: str) -> None:
    """Check that Liger is installed and has a device to run on, before anything is loaded.

    Raises:
        InputError: It is not, or has not.
    """
    if not is_installed("liger_kernel"):
        raise InputError(
            "model.decoder.fused_kernels: liger needs liger-kernel, which is not installed; pip install "
            "-e '.[liger]' in the checkout, or set it to none"
        )
    if device_type != "cuda":
        raise InputError(
            f"model.decoder.fused_kernels: liger is for GPUs, found accelerator {device_type}; set it to none"
        )


def fuse_kernels(model: PreTrainedModel) -> None:
    """Give a decoder Liger's kernels for norms, rotations and gated products.

    Liger also puts them into transformers' own module of that family, so that every model of it in this process that is
    made later has them.

    Raises:
        InputError: Liger does not know the family.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel  # which imports peft and bitsandbytes

    family = model.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise InputError(f"model.decoder.fused_kernels: liger has none for {family}; set it to none")
    apply_liger_kernel(model, KERNELS)  # type: ignore[no-untyped-call]

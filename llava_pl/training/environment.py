"""What a run was started with beside its configuration: versions, devices, the state of the code."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "llava_pl", "torch", "lightning", "transformers", "tokenizers", "peft", "bitsandbytes", "flash-attn",
    "liger-kernel", "torchao", "deepspeed", "torchmetrics", "pillow", "numpy",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Return the environment of this process, as JSON holds it; packages that are not installed are left out."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": packages,
        "cuda": torch.version.cuda,
        "devices": devices,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit that this code is of, with a mark where it was changed; None where it is no checkout."""
    folder = Path(__file__).parent
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

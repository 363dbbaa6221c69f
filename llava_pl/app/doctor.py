"""`llava-pl doctor`: what is here, what of it works, and what is missing for what.

In: this machine. Out: a `Report` for the terminal, or the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pl.app.arguments import OneLineArguments, count_cores
from llava_pl.evaluation.report import Report, ReportTable
from llava_pl.evaluation.report_terminal import print_report
from llava_pl.packages import is_installed

GIB = 2**30
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
WORKS = "works"


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that needs a package which need not be there.

    Args:
        name: What it is.
        module: What is imported for it.
        extra: Of this package, which brings it.
        prefix: What stands before `pip install`.
        suffix: What stands behind it.
        needs_cuda: Whether it runs on CUDA alone.
    """

    name: str
    module: str
    extra: str | None
    prefix: str = ""
    suffix: str = ""
    needs_cuda: bool = False


FEATURES = (
    Feature("decoder in 4 or 8 bits", "bitsandbytes", "qlora"),
    Feature("ZeRO-2 and ZeRO-3", "deepspeed", "deepspeed", prefix="DS_BUILD_OPS=0 "),
    Feature("attention flash_attention_2", "flash_attn", None, suffix=" --no-build-isolation", needs_cuda=True),
    Feature("fused kernels (liger)", "liger_kernel", "liger", needs_cuda=True),
    Feature("products in 8 bits (float8)", "torchao", "float8", needs_cuda=True),
    Feature("chat page (web)", "gradio", "app"),
    Feature("server (serve)", "uvicorn", "serve"),
    Feature("Weights & Biases", "wandb", None),
    Feature("TensorBoard", "tensorboard", "tensorboard"),
    Feature("notebooks", "ipykernel", "notebooks"),
    Feature("eval judge with an endpoint", "openai", "teacher"),
    Feature("MMBench's workbook", "openpyxl", "submit"),
)

DESCRIPTION = """Show what this machine has for llava_pl: versions, devices, attention that was tried on each, what
reads pictures, room in memory and on disks, and which packages are missing for what. Status 1 if what every run needs
does not work.

  llava-pl doctor
  llava-pl doctor --json"""


def main(words: Sequence[str]) -> int:
    """Print what was found, and return the exit status.

    Args:
        words: What follows ``llava-pl doctor``.
    """
    options = make_parser().parse_args(list(words))
    found = examine()
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        print_report(make_report(found))
    return 0 if is_well(found) else 1


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(prog="llava-pl doctor", description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    return parser


def examine() -> dict[str, Any]:
    """Return what is here, as JSON holds it."""
    from llava_pl.data.store_cache import default_cache_dir
    from llava_pl.training.environment import describe_environment

    environment = describe_environment()
    devices = _find_devices()
    has_cuda = any(device["name"].startswith("cuda") for device in devices)
    return {
        "environment": environment,
        "devices": devices,
        "attention": {device["name"]: _try_attention(device["name"]) for device in devices},
        "pictures": _find_picture_backends(),
        "room": [_room(Path("runs"), "runs"), _room(default_cache_dir(), "cache of records and features")],
        "features": {feature.name: _find_feature(feature, has_cuda=has_cuda) for feature in FEATURES},
    }


def is_well(found: Mapping[str, Any]) -> bool:
    """Return whether what every run needs works: attention sdpa on each device."""
    return all(tried["sdpa"] == WORKS for tried in found["attention"].values())


def make_report(found: Mapping[str, Any]) -> Report:
    """Return what was found as tables."""
    environment = found["environment"]
    versions = [
        (name, str(environment[name])) for name in ("python", "platform", "cuda", "commit") if environment[name]
    ]
    tables = [
        ReportTable("Versions", ("of", "version"), (*versions, *environment["packages"].items()), has_numbers=False),
        ReportTable(
            "Devices, and attention that was tried on them",
            ("device", "what", "memory", "free", *ATTENTIONS),
            tuple(
                (
                    device["name"],
                    device["what"],
                    f"{device['memory_gib']:.1f} GiB",
                    f"{device['free_gib']:.1f} GiB",
                    *(found["attention"][device["name"]][name] for name in ATTENTIONS),
                )
                for device in found["devices"]
            ),
            has_numbers=False,
        ),
        ReportTable("Pictures", ("what", "by"), tuple(found["pictures"].items()), has_numbers=False),
        ReportTable(
            "Room",
            ("for", "folder", "free"),
            tuple(
                (
                    each["what"],
                    each["folder"],
                    f"{each['free_gib']:.1f} GiB" + ("" if each["is_writable"] else ", but it cannot be written to"),
                )
                for each in found["room"]
            ),
            has_numbers=False,
        ),
        ReportTable("Further parts", ("what", "found"), tuple(found["features"].items()), has_numbers=False),
    ]
    notes = () if is_well(found) else ("attention sdpa does not work on every device: no run will; see its column",)
    return Report("llava_pl on this machine", notes, tuple(tables))


def _find_devices() -> list[dict[str, Any]]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    host = {"memory_gib": memory.total / GIB, "free_gib": memory.available / GIB}
    devices = [{"name": "cpu", "what": f"{count_cores()} cores, {torch.get_num_threads()} threads", **host}]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        devices.append({"name": f"cuda:{number}", "what": name, "memory_gib": total / GIB, "free_gib": free / GIB})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "what": "Apple's GPU", **host})
    return devices


def _try_attention(device: str) -> dict[str, str]:
    """Return what became of a tiny decoder with each attention: that it works, or why not."""
    return {name: _run_decoder(device, name) for name in ATTENTIONS}


def _run_decoder(device: str, attention: str) -> str:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    if attention.startswith("flash") and not device.startswith("cuda"):
        return "for CUDA alone"
    config = LlamaConfig(vocab_size=8, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    try:
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, attn_implementation=attention, dtype=dtype).to(device)
        with torch.no_grad():
            is_finite = bool(model(torch.zeros(1, 4, dtype=torch.int64, device=device)).logits.isfinite().all())
    except (ImportError, ValueError, RuntimeError) as error:  # of a package that is missing or built for another torch
        return " ".join(str(error).split())[:80]
    return WORKS if is_finite else "gives no numbers"


def _find_picture_backends() -> dict[str, str]:
    """Return what decodes and resizes pictures, here and in stock transformers, which asks an exported model."""
    from PIL import __version__, features

    codecs = [f"{name} {features.version(name)}" for name in ("libjpeg_turbo", "webp", "avif") if features.check(name)]
    pillow = f"Pillow {__version__}"
    has_torchvision = is_installed("torchvision")
    theirs = "torchvision, whose values differ by up to 1/255" if has_torchvision else "Pillow, with the same values"
    return {
        "decoding": f"{pillow} ({', '.join(codecs)})",
        "resizing, here": pillow,
        "resizing, stock transformers with an export": theirs,
    }


def _room(folder: Path, what: str) -> dict[str, Any]:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return {
        "what": what,
        "folder": str(folder),
        "free_gib": shutil.disk_usage(there).free / GIB,
        "is_writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
    }


def _find_feature(feature: Feature, *, has_cuda: bool) -> str:
    if not is_installed(feature.module):
        package = feature.module if feature.extra is None else f"-e '.[{feature.extra}]'"
        command = f"{feature.prefix}pip install {package}{feature.suffix}"
        return f"missing; {command}" + (", on a machine with CUDA" if feature.needs_cuda else "")
    return "there, and waits for a device with CUDA" if feature.needs_cuda and not has_cuda else "there"

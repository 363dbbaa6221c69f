"""Makes an environment for each peer that cannot live in ours.

    python benchmarks/make_peer_envs.py FOLDER

makes FOLDER/trl (TRL, with the transformers of this environment) and FOLDER/original (what haotian-liu/LLaVA pins in
its `pyproject.toml`, as far as its training step needs it), both with the torch of this environment. Where pip finds
packages is its own matter: set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL, for torch's CPU builds to
https://download.pytorch.org/whl/cpu. The code of the original itself is a checkout that `run.py` is told of.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path


def list_packages() -> dict[str, list[str]]:
    """Return what pip installs into each environment."""
    torch = f"torch=={version('torch').partition('+')[0]}"
    same = [f"{name}=={version(name)}" for name in ("transformers", "accelerate", "pillow", "numpy")]
    return {
        "trl": [torch, "trl==1.16.0", *same],
        # Its pins, but for torch 2.1.2; numpy of that time, protobuf and requests are what its imports need besides.
        "original": [
            torch,
            "transformers==4.37.2",
            "tokenizers==0.15.1",
            "accelerate==0.21.0",
            "peft==0.10.0",
            "sentencepiece==0.1.99",
            "numpy<2",
            "pillow==10.2.0",
            "protobuf",
            "requests",
        ],
    }


def main(folder: Path) -> None:
    """Make them from scratch."""
    for name, packages in list_packages().items():
        venv.create(folder / name, clear=True, with_pip=True)
        subprocess.run([folder / name / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("expected a folder: python benchmarks/make_peer_envs.py FOLDER")
    main(Path(sys.argv[1]))

"""B4 and B5: a training step of stage `finetune` and of stage `align`, beside the same step in peers' own trainers.

    python benchmarks/run.py --only B4 B5

Every way has the same weights and the same micro batch of mixed length, in float32 with AdamW and gradients clipped to
a norm of 1. The losses of the first step must agree within 1e-5 and the gradients of each parameter within 1e-4 of
their norm, or nothing is reported. A round is one step of the trainer's own loop: forward and backward pass, clipping,
update, schedule, log, and fetching and collating the next micro batch from samples in memory (see `StepRounds`).

What a way is:

* ours: `LlavaModule` in Lightning's Trainer, packed rows, nothing recomputed;
* transformers: `LlavaForConditionalGeneration` in its Trainer with its defaults;
* TRL: the same model in its SFTTrainer with its defaults, which recompute, and without that; on a processor it scores
  every row;
* the original: its model, collator and `LLaVATrainer`, recomputing as its scripts ask, and without that.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from harness import Environments, Measured, Peer
from report import Row, row_of
from step_work import FULL, NUM_IMAGE_TOKENS, QUICK, Size, text_lengths, write_work

BENCHMARKS = {"B4": "finetune", "B5": "align"}
MAX_LOSS_DIFFERENCE = 1e-5
MAX_GRADIENT_DIFFERENCE = 1e-4
TARGETS = {
    "B4": {"transformers": 1.7, "TRL": 1.7, "original": 1.7, "original, not recomputed": 1.4},
    "B5": {"transformers": 1.7, "original": 1.45, "original, not recomputed": 1.05},
}


def make_commands(folder: Path, stage: str, places: Environments, *, is_full: bool) -> dict[str, list[str] | None]:
    """Return what starts each peer, by its name; None for one that is not at hand."""

    def script(name: str, python: Path | str, *arguments: str) -> list[str]:
        return [str(python), str(Path(__file__).with_name(name)), str(folder), stage, *arguments]

    commands: dict[str, list[str] | None] = {
        "transformers": script("step_transformers.py", sys.executable, "transformers")
    }
    for extra, words in {"": ["recomputed"], ", not recomputed": []}.items():
        if extra and not is_full:
            continue
        commands[f"TRL{extra}"] = commands[f"original{extra}"] = None
        if places.trl_python:
            commands[f"TRL{extra}"] = script("step_transformers.py", places.trl_python, "trl", *words)
        if places.llava_python and places.llava_checkout:
            checkout = str(places.llava_checkout)
            commands[f"original{extra}"] = script("step_original.py", places.llava_python, checkout, *words)
    return commands


def check_equal(way: str, loss: float, other: float, path: Path, other_path: Path) -> str:
    """Return by how much the first step of a way differs from ours.

    Raises:
        SystemExit: By too much: they do not do the same work.
    """
    gradients, others = torch.load(path), torch.load(other_path)
    if gradients.keys() != others.keys():
        raise SystemExit(f"{way}: other parameters learn: {sorted(gradients.keys() ^ others.keys())}")
    differences = [(others[name] - own).norm() / own.norm() for name, own in gradients.items()]
    worst = float(torch.stack(differences).max())  # which is NaN if any is
    found = f"{way}: loss {other:.6f} differs by {abs(other - loss):.1e}, gradients by {worst:.1e}"
    if not (abs(other - loss) <= MAX_LOSS_DIFFERENCE and worst <= MAX_GRADIENT_DIFFERENCE):
        raise SystemExit(f"{found}; expected at most {MAX_LOSS_DIFFERENCE} and {MAX_GRADIENT_DIFFERENCE}")
    return found


def run_block(command: Sequence[str], num_threads: int, path: Path, num_rounds: int) -> tuple[float, list[Measured]]:
    """Return the loss of the first step of a fresh process, and what rounds of it took after two steps.

    Args:
        command: What starts it.
        num_threads: Of the process.
        path: Where the gradients of the first step are written.
        num_rounds: How many steps are timed.

    Raises:
        RuntimeError: It has ended, perhaps for want of memory.
    """
    peer = Peer(command, num_threads)
    loss = peer.ask(do="check", path=str(path))["loss"]
    rounds = [peer.run_round() for _ in range(1 + num_rounds)][1:]
    peer.close()
    print(f"  {', '.join(f'{measured.wall:.2f}' for measured in rounds)} s", file=sys.stderr, flush=True)
    return float(loss), rounds


def measure(number: str, places: Environments, *, is_full: bool, num_threads: int) -> Iterator[Row]:
    """Yield the rows of B4 or B5, each as soon as it is done; ours takes turns with one peer after the other.

    In blocks, ours, the peer, the peer, ours: each is a process with all memory for itself, of which a step takes half
    and more.
    """
    stage, size, num_rounds = BENCHMARKS[number], FULL if is_full else QUICK, 3 if is_full else 2
    benchmark, own = f"{number} `{stage}` step", []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_work(folder, size, stage)
        words = [sys.executable, str(Path(__file__).with_name("step_ours.py")), str(folder), stage]
        for way, command in make_commands(folder, stage, places, is_full=is_full).items():
            if command is None:
                yield Row(benchmark, way, note="skipped: see `make_peer_envs.py`")
                continue
            print(way, file=sys.stderr, flush=True)
            ours, theirs = folder / "ours.pt", folder / "theirs.pt"
            loss, before = run_block(words, num_threads, ours, num_rounds)
            try:
                other, first = run_block(command, num_threads, theirs, num_rounds)
                _, second = run_block(command, num_threads, theirs, num_rounds)
            except RuntimeError as error:
                yield Row(benchmark, way, note=f"{error}".partition(":")[0])
                continue
            print(check_equal(way, loss, other, ours, theirs), file=sys.stderr, flush=True)
            _, after = run_block(words, num_threads, ours, num_rounds)
            found, beside = [*first, *second], [*before, *after]
            own += beside
            # The targets are for the full size.
            target = TARGETS[number].get(way) if is_full else None
            yield row_of(benchmark, way, _median(found, size, stage), found, beside, target)
    if own:
        yield row_of(benchmark, "ours", _median(own, size, stage), own)


def _median(rounds: list[Measured], size: Size, stage: str) -> str:
    seconds = median(measured.wall for measured in rounds)
    if stage == "align":
        return f"{size.micro_batch / seconds:.2f} samples/s"
    lengths = text_lengths(stage, size.micro_batch)
    num_tokens = sum(length + NUM_IMAGE_TOKENS + 1 for length in lengths)
    return f"{1000 * seconds / num_tokens:.2f} ms/token"

"""B6: the memory of the loss alone, forward and backward, beside logits of all rows in float32.

    python benchmarks/run.py --only B6

8 x 700 rows of width 576 and 32,000 words, of which 2.5 % are supervised with a frozen head (stage `align`) or 12 %
with one that learns (`finetune`). The peers' way is the function by which models of transformers compute their loss: a
head over all rows, the logits in float32. Counted is how far a process's memory rises above what it held before,
gradients included, each in a fresh process (on Linux). Losses must agree within 1e-5.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

from harness import Channel, Measured, Peer, compare, read_memory, run_rounds
from report import Row

WAYS = ("ours", "logits of all rows")
SHARES = {"2.5 % supervised, frozen head": (0.025, False), "12 % supervised": (0.12, True)}
TARGETS = {"2.5 % supervised, frozen head": 20.0, "12 % supervised": 6.0}
NUM_ROWS, LENGTH, WIDTH, VOCABULARY = 8, 700, 576, 32_000


def measure(_: Any, *, is_full: bool, num_threads: int) -> Iterator[Row]:  # noqa: ANN401
    """Yield the rows of B6; a ratio is of medians over three processes of each way, whatever the form."""
    for supervised, target in TARGETS.items():
        found = run_rounds(
            {way: partial(run_once, way, supervised, num_threads) for way in WAYS},
            num_rounds=3,
            num_warm_ups=0,
        )
        losses = [m.answer["loss"] for rounds in found.values() for m in rounds]
        if max(losses) - min(losses) > 1e-5:
            raise SystemExit(f"B6: losses differ: {losses}")
        ours, theirs = ([m.answer["above_mib"] for m in found[way]] for way in WAYS)
        benchmark = f"B6 memory of the loss, {supervised}"
        yield Row(benchmark, "ours", f"{median(ours):.0f} MiB")
        yield Row(benchmark, WAYS[1], f"{median(theirs):.0f} MiB", compare(ours, theirs), target=target)


def run_once(way: str, supervised: str, num_threads: int) -> Measured:
    """Return what a round takes in a fresh process."""
    peer = Peer([sys.executable, __file__, way, supervised], num_threads)
    measured = peer.run_round()
    peer.close()
    return measured


def main(way: str, supervised: str) -> None:
    """Compute the loss and its gradients when asked to."""
    channel = Channel()
    import torch
    from transformers.loss.loss_utils import ForCausalLMLoss

    from llava_pl.models.loss import supervised_loss

    share, learns = SHARES[supervised]
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(learns)
    hidden = torch.randn(NUM_ROWS, LENGTH, WIDTH, requires_grad=True)
    labels = torch.randint(VOCABULARY, (NUM_ROWS, LENGTH))
    labels[:, 1:][torch.rand(NUM_ROWS, LENGTH - 1) > share] = labels[:, 0] = -100
    counts = []
    head.register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].numel() // WIDTH))

    def compute(hidden: torch.Tensor, labels: torch.Tensor) -> float:
        if way == "ours":
            loss = supervised_loss(hidden, labels, head).mean
        else:
            loss = ForCausalLMLoss(head(hidden), labels, VOCABULARY)
        loss.backward()
        return float(loss.detach())

    compute(hidden[:1, :32], labels[:1, :32].abs())  # buffers that are made once
    head.zero_grad()
    hidden.grad = None
    counts.clear()
    channel.wait()
    before = read_memory("VmRSS")
    loss = compute(hidden, labels)
    above = read_memory("VmHWM") - before
    assert sum(counts) == (int((labels != -100).sum()) if way == "ours" else labels.numel()), counts
    channel.answer(loss=loss, above_mib=above)


if __name__ == "__main__":
    main(*sys.argv[1:])

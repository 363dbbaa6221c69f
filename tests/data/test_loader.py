"""Guards the divisor of the loss: it must count the tokens of the whole step, the last and shorter one included.

Counted too small or too large, some steps would train with another learning rate than the others, and nothing else
would show it.
"""

import multiprocessing
import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
import torch

from llava_pl.data import loader as loader_module
from llava_pl.data.loader import StepLoader
from llava_pl.data.sampler import ResumableSampler
from llava_pl.types import InputError

# How many tokens each sample supervises; a batch is two samples.
COUNTS = [1, 2, 30, 4, 500, 6, 7, 80, 9, 10]
PER_BATCH = [3, 34, 506, 87, 19]


def gather(counts: list[int]) -> dict[str, int]:
    return {"num_supervised": sum(counts)}


def loader(num_micro_batches, **options) -> StepLoader:
    options = {"batch_size": 2, "collate_fn": gather} | options
    return StepLoader(COUNTS, count_micro_batches=num_micro_batches, **options)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [3, 34, 506, 87, 19]),
        (2, [37, 37, 593, 593, 19]),
        (3, [543, 543, 543, 106, 106]),
        (5, [649] * 5),
        (8, [649] * 5),
    ],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_micro_batch_knows_its_step(size, expected, num_workers):
    batches = list(loader(lambda: size, num_workers=num_workers))
    assert [batch["num_supervised"] for batch in batches] == PER_BATCH
    assert [batch["num_step_supervised"] for batch in batches] == expected


def test_one_micro_batch_per_step_by_default():
    batches = list(StepLoader(COUNTS, batch_size=2, collate_fn=gather))
    assert [batch["num_step_supervised"] for batch in batches] == PER_BATCH


def test_number_of_micro_batches_is_asked_at_the_start_of_each_step():
    """As with a scheduler that changes the accumulation during a run."""
    sizes = iter([1, 3, 2, 2])
    batches = list(loader(lambda: next(sizes)))
    assert [batch["num_step_supervised"] for batch in batches] == [3, 627, 627, 627, 19]


def test_every_epoch_begins_with_a_new_step():
    batches = loader(lambda: 2)
    first = [batch["num_step_supervised"] for batch in batches]
    assert [batch["num_step_supervised"] for batch in batches] == first == [37, 37, 593, 593, 19]


def test_tells_how_long_batches_were_waited_for(monkeypatch):
    """Not how long whoever asks for them is busy with each; a step's batches are read together."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(loader_module, "time", clock)

    def gather_slowly(counts: list[int]) -> dict[str, int]:
        clock.now += 1
        return gather(counts)

    batches, waited = loader(lambda: 2, collate_fn=gather_slowly), []
    for _ in batches:
        clock.now += 100
        waited.append(batches.waited_seconds)
    assert waited == [2, 2, 4, 4, 5]


def test_no_more_is_read_than_the_step_needs():
    read = []

    def gather_and_note(counts: list[int]) -> dict[str, int]:
        read.append(len(read))
        return gather(counts)

    batches = iter(loader(lambda: 2, collate_fn=gather_and_note))
    seen = []
    for _ in range(5):
        next(batches)
        seen.append(len(read))
    assert seen == [2, 2, 4, 4, 5]
    assert next(batches, None) is None


def test_length_is_the_number_of_micro_batches():
    assert len(loader(lambda: 3)) == 5
    assert len(loader(lambda: 3, drop_last=True, batch_size=3)) == 3


class InOrder(ResumableSampler):
    def _draw(self):
        return list(range(self.num_dataset))


def resumable(epoch=0, **options) -> StepLoader:
    sampler = InOrder(COUNTS, num_replicas=1, rank=0)
    sampler.set_epoch(epoch)
    return loader(lambda: 1, sampler=sampler, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_goes_on_after_what_is_done(num_workers):
    first, second = resumable(), resumable(num_workers=num_workers)
    batches = iter(first)
    next(batches), next(batches)
    second.load_state_dict(first.state_dict())
    expected = {"epoch": 0, "num_done": 2, "batch_size": 2, "num_micro_batches": 1}
    assert second.state_dict() == first.state_dict() == expected
    assert [batch["num_supervised"] for batch in second] == PER_BATCH[2:]
    assert [batch["num_supervised"] for batch in second] == PER_BATCH


@pytest.mark.parametrize(
    ("epoch", "state"),
    [(1, {"epoch": 0, "num_done": 5}), (1, {"epoch": 0, "num_done": 3}), (0, {"num_done": 5})],
)
def test_a_finished_epoch_is_followed_by_a_whole_one(epoch, state):
    batches = resumable(epoch)
    batches.load_state_dict(state)
    assert len(list(batches)) == 5


def test_a_shortened_epoch_is_finished_at_its_end():
    batches = resumable(count_batches=lambda: 3)
    batches.load_state_dict({"num_done": 3})
    assert next(iter(batches))["num_supervised"] == PER_BATCH[0]


@pytest.mark.parametrize(
    ("saved", "found"), [({"batch_size": 6, "num_micro_batches": 2}, "6 and 2"), ({"num_micro_batches": 3}, "2 and 3")]
)
def test_batches_of_another_size_have_no_place_to_go_on(saved, found):
    state = resumable().state_dict() | saved
    num_samples = {"6 and 2": 12, "2 and 3": 6}[found]
    with pytest.raises(
        InputError,
        match=f"^data.batch_size: 2 samples a micro batch over all devices, 1 of them a step, but the checkpoint was "
        f"made with {found}; .* so that a step has {num_samples} samples, or start anew with --model.init_from$",
    ):
        resumable().load_state_dict(state)


def test_workers_leave_signals_to_the_process_that_trains():
    batches = iter(StepLoader([0] * 9, collate_fn=name_process, num_workers=1, prefetch_factor=1))
    worker = next(batches)["process"]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        subprocess.run(["kill", f"-{number.value}", str(worker)], check=True)
    assert [next(batches)["process"] for _ in range(4)] == [worker] * 4
    # Otherwise this process, which ends its workers in this way if nothing else does, would wait for them forever.
    os.kill(worker, signal.SIGTERM)
    (process,) = [child for child in multiprocessing.active_children() if child.pid == worker]
    process.join(timeout=20)
    assert process.exitcode == 0


def name_process(_) -> dict:
    return {"process": os.getpid(), "num_supervised": 0}


def test_random_state_is_left_alone():
    """Each epoch of an ordinary loader draws a number, and dropout after it would differ in a resumed run."""
    before = torch.get_rng_state()
    list(loader(lambda: 1))
    assert torch.equal(torch.get_rng_state(), before)

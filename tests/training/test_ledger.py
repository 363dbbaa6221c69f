"""Guards: a ledger that misses a step that a checkpoint has, or keeps one that is taken again."""

from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from llava_pl.ledger_file import Plan, Segment, ledger_path, read_ledger
from llava_pl.training.ledger import Ledger


class FakeTrainer(SimpleNamespace):
    """Two micro batches a step."""

    def __init__(self, global_step=0, world_size=1, rank=0):
        loader = DataLoader(range(8), batch_size=2)
        super().__init__(
            train_dataloader=loader, num_training_batches=4, world_size=world_size, global_rank=rank,
            is_global_zero=rank == 0, current_epoch=0, global_step=global_step, num_batches=0,
        )  # fmt: skip
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: self.num_batches % 2))


@pytest.fixture
def run(tmp_path):
    def take(ledger, trainer, *batches):
        for indices in batches:
            trainer.num_batches += 1
            trainer.global_step += trainer.num_batches % 2 == 0
            ledger.on_train_batch_end(trainer, None, None, {"indices": indices}, 0)

    take.folder = tmp_path
    take.entries = lambda: [(e.step, list(e.indices)) for e in read_ledger(ledger_path(tmp_path, 0))]
    return take


def test_a_checkpoint_finds_its_steps_on_disk(run):
    ledger, trainer = Ledger(run.folder), FakeTrainer()
    ledger.on_train_start(trainer, None)
    run(ledger, trainer, [3, 1], [0, 7], [2, 4])
    ledger.on_save_checkpoint(trainer, None, {})
    assert run.entries() == [(0, [3, 1, 0, 7])]
    run(ledger, trainer, [5, 6])
    ledger.on_train_end(trainer, None)
    assert run.entries() == [(0, [3, 1, 0, 7]), (1, [2, 4, 5, 6])]


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(run):
    ledger, trainer = Ledger(run.folder), FakeTrainer()
    ledger.on_train_start(trainer, None)
    run(ledger, trainer, [3, 1], [0, 7], [2, 4], [5, 6])
    ledger.on_exception(trainer, None, KeyboardInterrupt())
    again, trainer = Ledger(run.folder), FakeTrainer(global_step=1)
    again.on_train_start(trainer, None)
    run(again, trainer, [2, 4], [5, 6])
    again.on_train_end(trainer, None)
    assert run.entries() == [(0, [3, 1, 0, 7]), (1, [2, 4, 5, 6])]


def test_a_run_goes_on_with_fewer_ranks(run):
    """Two of them take three steps, one of them goes on after the first."""
    for rank in range(2):
        ledger, trainer = Ledger(run.folder), FakeTrainer(world_size=2, rank=rank)
        ledger.on_train_start(trainer, None)
        run(ledger, trainer, *[[2 * step + rank] for step in range(3) for _ in range(2)])
        ledger.on_exception(trainer, None, KeyboardInterrupt())
    again, trainer = Ledger(run.folder), FakeTrainer(global_step=1)
    again.on_train_start(trainer, None)
    run(again, trainer, [2], [3])
    again.on_train_end(trainer, None)
    assert run.entries() == [(0, [0, 0]), (1, [2, 3])]
    assert [(e.step, list(e.indices)) for e in read_ledger(ledger_path(run.folder, 1))] == [(0, [1, 1])]
    assert Plan.read(run.folder) == Plan(8, is_cut_short=False, segments=(Segment(0, 2), Segment(1, 1)))


def test_batches_without_indices_are_left_out(run):
    ledger, trainer = Ledger(run.folder), FakeTrainer()
    ledger.on_train_start(trainer, None)
    ledger.on_train_batch_end(trainer, None, None, {}, 0)
    ledger.on_train_end(trainer, None)
    assert run.entries() == []

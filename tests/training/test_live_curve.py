"""Guards the curve in notebooks: values of other steps, a picture for each step, or none at the end."""

from types import SimpleNamespace

import IPython.display
import pytest
import torch

from llava_pl.training import live_curve
from llava_pl.training.live_curve import LiveCurve

PNG = b"\x89PNG"


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, and each picture that replaced it."""
    pictures = []
    handle = SimpleNamespace(update=lambda picture: pictures.append(("update", picture.data)))

    def display(picture, *, display_id):
        assert display_id is True
        pictures.append(("display", picture.data))
        return handle

    monkeypatch.setattr(IPython.display, "display", display)
    return pictures


def run(callback, losses, *, is_global_zero=True, micro_batches=1):
    trainer = SimpleNamespace(global_step=0, callback_metrics={}, is_global_zero=is_global_zero, max_steps=10)
    callback.on_train_start(trainer, None)
    for loss in losses:
        for batch in range(micro_batches):
            if batch == micro_batches - 1:
                trainer.global_step += 1
                trainer.callback_metrics = {"train/loss": torch.tensor(loss), "train/other": torch.tensor(0.0)}
            callback.on_train_batch_end(trainer, None, None, None, batch)
    callback.on_train_end(trainer, None)


def test_one_picture_that_is_replaced(shown):
    callback = LiveCurve(every_seconds=0)
    run(callback, [3.0, 2.0, 1.0])
    # From the second step on: one point is no curve.
    assert [kind for kind, _ in shown] == ["display", "update", "update"]
    assert all(data.startswith(PNG) for _, data in shown)
    assert len({data for _, data in shown[:2]}) == 2
    assert callback.history == {"train/loss": [(1, 3.0), (2, 2.0), (3, 1.0)], "train/grad_norm": []}


def test_drawn_no_oftener_than_asked_for_and_at_the_end(shown, monkeypatch):
    clock = iter([0.0, 0.1, 0.2, 0.5, 0.9, 1.3, 1.3, 1.4, 9.0])
    monkeypatch.setattr(live_curve, "perf_counter", lambda: next(clock))
    run(LiveCurve(every_seconds=1), [3.0, 2.0, 1.0, 1.0, 1.0])
    # At the second step, at 1.3 seconds, and at the end.
    assert len(shown) == 3


def test_micro_batches_of_a_step_are_one_value(shown):
    callback = LiveCurve(["train/loss"])
    run(callback, [3.0, 2.0], micro_batches=3)
    assert callback.history == {"train/loss": [(1, 3.0), (2, 2.0)]}


def test_steps_between_are_left_out(shown):
    callback = LiveCurve(["train/loss"], every_n_steps=2)
    run(callback, [5.0, 4.0, 3.0, 2.0])
    assert callback.history == {"train/loss": [(2, 4.0), (4, 2.0)]}


def test_other_ranks_draw_nothing(shown):
    run(LiveCurve(every_seconds=0), [3.0], is_global_zero=False)
    assert shown == []


def test_another_run_begins_anew(shown):
    callback = LiveCurve(["train/loss"], every_seconds=100)
    run(callback, [3.0, 1.0])
    run(callback, [2.0, 1.0])
    assert callback.history == {"train/loss": [(1, 2.0), (2, 1.0)]}
    assert [kind for kind, _ in shown].count("display") == 2

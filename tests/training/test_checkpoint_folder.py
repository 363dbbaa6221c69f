"""Guards: a `last.ckpt` that points at nothing, a good checkpoint that is deleted, a foreign file that is."""

import pytest

from llava_pl.training.checkpoint_folder import CheckpointFolder


@pytest.fixture
def publish(tmp_path):
    """Publish a step, and return the names that are then in the folder."""
    folder = CheckpointFolder(tmp_path, num_kept=2)

    def run(step):
        folder.checkpoint(step).touch()
        folder.publish(step, lambda path: path.unlink())
        assert folder.last.readlink().name == f"step={step}.ckpt"
        return sorted(path.name for path in tmp_path.iterdir())

    run.folder = folder
    return run


def test_the_newest_stay(publish):
    assert publish(1) == ["last.ckpt", "step=1.ckpt"]
    assert publish(9) == ["last.ckpt", "step=1.ckpt", "step=9.ckpt"]
    assert publish(10) == ["last.ckpt", "step=10.ckpt", "step=9.ckpt"]


def test_a_new_run_deletes_nothing_but_its_own(publish, tmp_path):
    for name in ("best.ckpt", "step=1.ckpt", "step=99.ckpt", ".step=5.ckpt.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".step=7.ckpt.tmp").mkdir()
    (tmp_path / ".step=7.ckpt.tmp" / "00000.pt").touch()
    publish.folder.tidy(is_continued=False)
    for step in (2, 3, 4):
        publish(step)
    assert publish(5) == ["best.ckpt", "last.ckpt", "step=1.ckpt", "step=4.ckpt", "step=5.ckpt", "step=99.ckpt"]


def test_a_continued_run_takes_over_and_deletes_its_former_future(publish, tmp_path):
    for name in ("best.ckpt", "step=1.ckpt", "step=2.ckpt", "step=99.ckpt"):
        (tmp_path / name).touch()
    publish.folder.tidy(is_continued=True)
    assert publish(3) == ["best.ckpt", "last.ckpt", "step=2.ckpt", "step=3.ckpt"]

"""Guards: a checkpoint that a later step changes, a write that fails unheard, a second copy in memory."""

import errno
import io
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from llava_pl.training import background, checkpoint_io
from llava_pl.training.background import BackgroundCheckpointIO, HostCopy
from llava_pl.training.checkpoint_io import DurableCheckpointIO
from llava_pl.types import InputError


@pytest.fixture
def writer():
    made = BackgroundCheckpointIO()
    yield made
    made.teardown()


@pytest.fixture
def full_disk(monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_io._HashingFile, "write", write)


def content(step=3):
    """A checkpoint with everything that a copy may get wrong."""
    base = torch.arange(24.0) + step
    return {
        "global_step": step,
        "state_dict": {"whole": base, "view": base[2:14].view(3, 4).T, "half": torch.ones(5, dtype=torch.bfloat16)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(float(step)), "empty": torch.empty(0, 2)}}}],
        "others": (np.arange(3), {1, 2}, [torch.nn.Parameter(torch.zeros(2))]),
    }


def saved(value):
    """Return the bytes of a file."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def spoil(value):
    """Change in place all that can be changed."""
    value["state_dict"]["whole"].fill_(-1)
    value["state_dict"]["half"].zero_()
    value["optimizer_states"][0]["state"][0]["step"] += 1
    value["others"][0][:] = -1
    value["others"][1].add(3)
    value["others"][2][0].data += 1
    value["global_step"] = -1


def test_a_copy_is_saved_as_the_original_and_stays_so():
    original = content()
    expected = saved(original)
    taken = HostCopy().take(original)
    spoil(original)
    assert saved(taken) == expected


def test_the_next_copy_is_made_in_the_same_memory():
    copies = HostCopy()
    place = copies.take(content())["state_dict"]["whole"].data_ptr()
    again = copies.take(content(4))
    assert saved(again) == saved(content(4))
    assert again["state_dict"]["whole"].data_ptr() == place
    larger = {"state_dict": {"whole": torch.arange(30.0)}}
    assert saved(copies.take(larger)) == saved(larger)
    assert [buffer.nbytes for buffer in copies._buffers] == [120]


def test_a_forked_worker_holds_no_second_copy():
    """It sees the next copy in the place of the one that it was forked with."""
    copies = HostCopy()
    taken = copies.take({"w": torch.tensor([1.0])})["w"]
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.read(reading, 1)
        os._exit(int(taken.item()))
    copies.take({"w": torch.tensor([7.0])})
    os.write(writing, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_pages_are_locked_for_what_lies_on_a_gpu(monkeypatch):
    calls = []
    runtime = SimpleNamespace(
        cudaHostRegister=lambda *words: calls.append(words) or 0, cudaHostUnregister=lambda *words: calls.append(words)
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda code: calls.append(code))
    buffer = background._allocate(SimpleNamespace(nbytes=lambda: 5000, is_cuda=True))
    place = buffer.data_ptr()
    del buffer
    assert calls == [(place, 5000, 1), 0, (place,)]


@pytest.mark.gpu
def test_a_copy_from_a_gpu():
    value = {"w": torch.arange(1000.0, device="cuda")}
    taken = HostCopy().take(value)["w"]
    value["w"].zero_()
    assert taken.is_pinned()
    assert torch.equal(taken, torch.arange(1000.0))


def test_what_is_written_is_what_was_when_it_was_asked_for(writer, gate, tmp_path):
    original = content()
    writer.save_checkpoint(original, tmp_path / "a.ckpt")
    spoil(original)
    assert not (tmp_path / "a.ckpt").exists()
    gate.set()
    writer.wait()
    DurableCheckpointIO().save_checkpoint(content(), tmp_path / "b.ckpt")
    for ending in ("", ".json"):
        assert (tmp_path / f"a.ckpt{ending}").read_bytes() == (tmp_path / f"b.ckpt{ending}").read_bytes()


def test_what_was_gathered_for_a_save_is_not_copied(writer, gate, tmp_path):
    original = content()
    writer.save_gathered(original, tmp_path / "a.ckpt")
    original["state_dict"]["half"].fill_(7)  # which nobody else has
    original["others"][2][0].data += 1
    gate.set()
    writer.wait()
    written = torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert written["state_dict"]["half"].tolist() == [7.0] * 5
    assert written["others"][2][0].tolist() == [0.0, 0.0]
    assert written.keys() == original.keys()


def test_a_save_waits_for_the_one_before(writer, gate, tmp_path):
    writer.save_checkpoint(content(1), tmp_path / "1.ckpt")
    second = threading.Thread(target=writer.save_checkpoint, args=(content(2), tmp_path / "2.ckpt"))
    second.start()
    second.join(timeout=0.3)
    assert second.is_alive()
    gate.set()
    second.join()
    writer.wait()
    saved = [torch.load(tmp_path / f"{n}.ckpt", weights_only=False) for n in (1, 2)]  # it holds an array, too
    steps = [each["global_step"] for each in saved]
    assert steps == [1, 2]


def test_something_is_done_when_the_file_is_whole(writer, gate, tmp_path):
    seen = []
    writer.save_checkpoint(content(), tmp_path / "a.ckpt")
    writer.afterwards(lambda: seen.append((tmp_path / "a.ckpt").exists()))
    assert seen == []
    gate.set()
    writer.wait()
    assert seen == [True]
    writer.afterwards(lambda: seen.append("nothing is in flight"))
    assert seen == [True, "nothing is in flight"]


def test_an_error_is_raised_once_to_whoever_asks_next(writer, full_disk, tmp_path):
    asking = [
        writer.wait,
        writer.teardown,
        lambda: writer.save_checkpoint(content(), tmp_path / "b.ckpt"),
        lambda: (threading.Event().wait(0.5), writer.check()),
    ]
    seen = []
    for ask in asking:
        writer.save_checkpoint(content(), tmp_path / "a.ckpt")
        writer.afterwards(lambda: seen.append("whole"))
        with pytest.raises(InputError, match=r"a.ckpt: cannot be written: No space left on device; make room and"):
            ask()
        writer.wait()
    assert seen == []
    assert list(tmp_path.iterdir()) == []


def test_checking_does_not_wait(writer, gate, tmp_path):
    writer.save_checkpoint(content(), tmp_path / "a.ckpt")
    writer.check()
    assert not (tmp_path / "a.ckpt").exists()


def test_workers_may_be_forked_while_the_thread_writes(writer, gate, tmp_path):
    writer.save_checkpoint(content(), tmp_path / "a.ckpt")
    loader = DataLoader(range(6), num_workers=2, multiprocessing_context="fork")
    assert [int(item) for item in loader] == [0, 1, 2, 3, 4, 5]
    gate.set()
    writer.teardown()
    assert (tmp_path / "a.ckpt").exists()


def test_memory_is_given_back_and_a_second_run_may_follow(writer, tmp_path):
    for step in (1, 2):
        writer.save_checkpoint(content(step), tmp_path / f"{step}.ckpt")
        writer.teardown()
        assert writer._copy._buffers == []
        assert (tmp_path / f"{step}.ckpt").exists()

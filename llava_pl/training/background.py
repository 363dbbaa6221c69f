"""Checkpoints that are written while training goes on.

In: what the trainer wants kept. Out: a copy of it in host memory, at once; the file, some time later, by a thread.
"""

from __future__ import annotations

import copy
import mmap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from llava_pl.training.checkpoint_io import DurableCheckpointIO


class BackgroundCheckpointIO(DurableCheckpointIO):
    """Copies a checkpoint, and has a thread write it.

    One save is in flight: the next one waits for it, so that there is never more than one copy. An error of the thread
    is kept for whoever asks next: the next save, `check`, `wait` or the teardown.

    Unlike Lightning's AsyncCheckpointIO, which copies on the device, and lets saves queue up with a copy for each.
    """

    def __init__(self, *, is_unsafe: bool = False) -> None:
        super().__init__(is_unsafe=is_unsafe)
        self._copy = HostCopy()
        self._thread: ThreadPoolExecutor | None = None  # made at the first save: a strategy that spawns pickles this
        self._pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Copy a checkpoint, and begin to write it.

        Raises:
            InputError: The one before could not be written.
        """
        self.wait()
        self._begin(self._copy.take(checkpoint), path, storage_options)

    def save_gathered(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Begin to write a checkpoint whose weights and optimizer states were gathered for it, and are not copied.

        Raises:
            InputError: The one before could not be written.
        """
        self.wait()
        gathered = ("state_dict", "optimizer_states")
        rest = {name: value for name, value in checkpoint.items() if name not in gathered}
        self._begin(checkpoint | self._copy.take(rest), path, storage_options)

    def _begin(self, content: dict[str, Any], path: str | Path, storage_options: Any) -> None:  # noqa: ANN401
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._pending = self._thread.submit(super().save_checkpoint, content, path, storage_options)

    def afterwards(self, action: Callable[[], None]) -> None:
        """Have the thread do something once the file is whole; if it never is, this is not done either."""
        written = self._pending
        if self._thread is None or written is None:
            action()
        else:
            self._pending = self._thread.submit(_then, written, action)

    def check(self) -> None:
        """Raise the error of a write that failed; do not wait for one that goes on.

        Raises:
            InputError: The last checkpoint could not be written.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is whole.

        Raises:
            InputError: It could not be written.
        """
        if self._pending is not None:
            wait_for([self._pending])  # Ctrl-C ends the waiting here, with the write still pending
            done, self._pending = self._pending, None
            done.result()

    def teardown(self) -> None:
        """Finish what is being written, and give back thread and memory."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            self._thread, self._copy = None, HostCopy()


def _then(written: Future[None], action: Callable[[], None]) -> None:
    written.result()
    action()


class HostCopy:
    """A copy of a checkpoint in host memory, made in the same buffers each time: fresh memory costs more than copying.

    Buffers are memory that forked processes share. A data worker that was forked after a save would otherwise keep the
    pages of that time, and the next save would make a second copy.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def take(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Return a copy that no later step can change, good until the next call.

        As in ``torch.save`` whole storages are copied, once each, so that tensors that share one still do.
        """
        spare, self._buffers = self._buffers[::-1], []
        copies: dict[int, UntypedStorage] = {}
        memo: dict[int, Any] = {}
        for tensor in _tensors(checkpoint):
            source = tensor.untyped_storage()
            if source.data_ptr() not in copies:
                buffer = spare.pop() if spare else _allocate(source)
                if buffer.nbytes != source.nbytes():
                    buffer = _allocate(source)
                self._buffers.append(buffer)
                copies[source.data_ptr()] = buffer.untyped_storage().copy_(source, non_blocking=True)
            memo[id(tensor)] = torch.empty(0, dtype=tensor.dtype).set_(
                copies[source.data_ptr()], tensor.storage_offset(), tensor.shape, tensor.stride()
            )
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        return copy.deepcopy(checkpoint, memo)


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401  whatever callbacks put into a checkpoint
    """Yield the ordinary tensors in nested collections; others, which are few and small, are left to `deepcopy`."""
    if type(value) is Tensor and value.layout is torch.strided and value.nbytes:
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _allocate(source: UntypedStorage) -> Tensor:
    """Return a buffer for a copy, with its pages locked where a GPU will write to it.

    Unlike ``pin_memory=True``, which rounds up to a power of two.
    """
    buffer = torch.frombuffer(mmap.mmap(-1, source.nbytes()), dtype=torch.uint8)
    if source.is_cuda:
        runtime, is_portable = torch.cuda.cudart(), 1  # type: ignore[no-untyped-call]
        torch.cuda.check_error(runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, is_portable))
        weakref.finalize(buffer, runtime.cudaHostUnregister, buffer.data_ptr())
    return buffer

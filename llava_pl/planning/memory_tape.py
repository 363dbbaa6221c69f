"""Operations to bytes: how much memory is alive after each operation of torch, and of what kind.

In: whatever torch computes while the tape is on. Out: a list of `Moment`. Bytes are counted by storage, from its first
appearance to its last reference, which is what a caching allocator must at least hold; what a kernel takes within
itself is not seen, nor is how an allocator rounds and fragments.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Moment(NamedTuple):
    """Bytes alive at one time.

    Args:
        others: Of all that appeared while the tape was on, but finished gradients: activations and intermediates.
        gradients: Of finished gradients of parameters.
    """

    others: int
    gradients: int


class MemoryTape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts living storages; a context manager, which can be entered again to go on.

    Works on real tensors and on those of torch's ``FakeTensorMode`` alike.

    Args:
        parameters: Their storages are not counted, and their gradients apart once they are finished.
        buffers: Not counted either.

    Attributes:
        moments: One for each time that more bytes were alive than at the time before.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], buffers: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moments: list[Moment] = []
        self._bytes = {"others": 0, "gradients": 0}
        self._kind: weakref.WeakKeyDictionary[torch.UntypedStorage, list[str]] = weakref.WeakKeyDictionary()
        for tensor in (*parameters, *buffers):
            self._kind[tensor.untyped_storage()] = ["known"]
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._finish)  # type: ignore[no-untyped-call]
            for parameter in parameters
            if parameter.requires_grad
        ]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  torch's own protocol
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation, and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    @property
    def num_alive(self) -> int:
        """Bytes that are alive now, without finished gradients."""
        return self._bytes["others"]

    def close(self) -> None:
        """Let go of the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._kind:
            return
        kind = self._kind[storage] = ["others"]
        self._bytes["others"] += storage.nbytes()
        # torch keeps the Python object of a storage for as long as anything refers to it, in C++ too.
        weakref.finalize(storage, self._free, kind, storage.nbytes()).atexit = False
        self.moments.append(Moment(**self._bytes))

    def _free(self, kind: list[str], num_bytes: int) -> None:
        self._bytes[kind[0]] -= num_bytes

    def _finish(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        kind = self._kind.get(storage)
        if kind == ["others"]:
            kind[0] = "gradients"
            self._bytes["others"] -= storage.nbytes()
            self._bytes["gradients"] += storage.nbytes()

"""Weights that stay in their files until a device takes the part of each that it is to hold.

In: tensors mapped from files, which take no memory. Out: a model of stand-ins, which take none either, through all that
makes it ready for training; and at the end, unit by unit, the weights in their places.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_pl.export.weights import check_weights
from llava_pl.types import InputError


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a parameter's weights come from.

    Args:
        name: In the file, for messages.
        tensor: Mapped from the file.
        dtype: That a plainly loaded model would hold them in first, and round them to.
    """

    name: str
    tensor: Tensor
    dtype: torch.dtype


class WeightStream:
    """The way from files to the parameters of a model that no device holds whole.

    A model is built as ever, of stand-ins: one number each, which has the shape of a weight. So transformers itself
    says which tensor of a file goes where, which are tied, missing or left over, and what buffers hold; and what is
    fresh (projector, adapters) is drawn in the same order as anywhere else.

    Args:
        where: What an error begins with.
    """

    def __init__(self, where: str = "decoder.path") -> None:
        self.where = where
        self._sources: dict[nn.Parameter, _Source] = {}

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter is a stand-in."""
        return parameter in self._sources

    def stand_ins(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return a stand-in for each tensor of a file, in the dtype that a model is to hold."""
        return {n: _stand_in(t.shape, dtype if t.is_floating_point() else t.dtype) for n, t in weights.items()}

    def follow(self, model: PreTrainedModel, stand_ins: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Remember which tensors a model has got stand-ins of; its buffers get them at once.

        Args:
            model: As transformers has built it of the stand-ins.
            stand_ins: By their names in the files.
            weights: The tensors that they stand for, of the same names.

        Raises:
            InputError: transformers does not take the tensors as they are, or ties two that differ.
        """
        # Renamed and tied as they may be, they keep their one number where it is.
        names = {stand_in.data_ptr(): name for name, stand_in in stand_ins.items()}
        persistent = model.state_dict(keep_vars=True)
        for own_name, tensor in persistent.items():
            name = names.get(tensor.data_ptr())
            if name is None or tensor.shape != weights[name].shape:
                raise InputError(
                    f"{self.where}: {own_name}: transformers puts it together from other tensors of the files, which "
                    "cannot be streamed; load the model and save it with transformers, or use strategy ddp"
                )
            if isinstance(tensor, nn.Parameter):
                self._sources[tensor] = _Source(name, weights[name], tensor.dtype)
            else:
                module_name, _, buffer_name = own_name.rpartition(".")
                model.get_submodule(module_name).register_buffer(buffer_name, weights[name].to(tensor.dtype))
        self._check_tied(model, weights)

    def make_real(self, parameters: Iterable[nn.Parameter]) -> None:
        """Read weights whole that must be worked on before the model is divided."""
        self.fill(parameters, rank=0, num_ranks=1)

    def replace(self, parameter: nn.Parameter, name: str, tensor: Tensor) -> None:
        """Have a stand-in filled from another tensor of its shape."""
        self._sources[parameter] = _Source(name, tensor, tensor.dtype)

    def measure_dora(self, model: nn.Module) -> None:
        """Set the magnitudes of DoRA to the lengths of the weights' rows, one layer after the other."""
        for layer in model.modules():
            magnitudes = getattr(layer, "lora_magnitude_vector", None)
            weight = layer.get_base_layer().weight if magnitudes else None  # type: ignore[operator]
            if weight in self._sources:
                source = self._sources[weight]
                stand_in, weight.data = weight.data, source.tensor.to(source.dtype)
                for name in list(magnitudes):  # type: ignore[arg-type]
                    layer.lora_variant[name].init(layer, adapter_name=name)  # type: ignore[index, union-attr]
                weight.data = stand_in

    @torch.no_grad()
    def fill(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rank: int,
        num_ranks: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Put a rank's part of the weights into parameters that are about to be divided.

        Each becomes a whole tensor, of which nothing but that part is read or written: pages of memory that nobody
        writes to take no room. With one rank the part is everything.

        Args:
            parameters: Of one unit, say a layer; those that are no stand-ins stay as they are.
            rank: Which of the equal parts along the first dimension, as `torch.chunk` makes them.
            num_ranks: How many.
            device: Where the weights go.

        Raises:
            InputError: They hold NaN or infinity.
        """
        for parameter in parameters:
            if (source := self._sources.pop(parameter, None)) is None:
                continue
            whole = _reserve(parameter, device)
            for place, part in zip(_cut(whole, rank, num_ranks), _cut(source.tensor, rank, num_ranks), strict=True):
                check_weights({source.name: part}, self.where)
                # Copying rounds, too, without memory for what it has rounded.
                place.copy_(part if parameter.dtype == source.dtype else part.to(source.dtype))
            parameter.data = whole

    def _check_tied(self, model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
        """Refuse two different tables of files whose configuration calls them one: transformers would look at both."""
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        if table is not head:
            return
        source = self._sources[table]
        used = {used.name for used in self._sources.values()}
        for name, tensor in weights.items():
            is_twin = name not in used and tensor.shape == table.shape and tensor.data_ptr() != source.tensor.data_ptr()
            if is_twin and not torch.equal(tensor.to(source.dtype), source.tensor.to(source.dtype)):
                raise InputError(
                    f"{self.where}: {name} and {source.name} differ, but config.json ties them; set "
                    "tie_word_embeddings to false there"
                )


def convert(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in another dtype; a stand-in stays one."""
    is_stand_in = tensor.untyped_storage().nbytes() < tensor.nbytes
    return _stand_in(tensor.shape, dtype) if is_stand_in else tensor.to(dtype)


def _cut(tensor: Tensor, rank: int, num_ranks: int) -> Sequence[Tensor]:
    """Return a rank's part of a tensor, as `fully_shard` cuts it; nothing where the ranks before have it all."""
    return [tensor] if num_ranks == 1 else tensor.chunk(num_ranks)[rank : rank + 1]


def _reserve(parameter: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor whose pages take no memory until they are written to, and give it back when it is gone."""
    if torch.device(device).type != "cpu" or parameter.numel() == 0:
        return torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    # Not of torch.empty, which gets pages that were written to before, and keeps them for the next one.
    num_bytes = parameter.numel() * parameter.element_size()
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=parameter.dtype).view(parameter.shape)


def _stand_in(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.zeros((), dtype=dtype).expand(shape)

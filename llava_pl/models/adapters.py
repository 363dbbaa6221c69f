"""A pretrained part to the same part with adapters: LoRA beside its linear layers, new rows in its word embeddings.

In: the transformers model that a `VisionEncoder` or a `CausalDecoder` holds. Out: the same object, of the same class;
peft has put its own layers around some of the old ones. Which parameters then learn, ``training/stages.py`` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from torch import nn

from llava_pl.models.quantization import silence_bitsandbytes
from llava_pl.types import InputError

LoraBias = Literal["none", "all", "lora_only"]

LEARNED_ROWS = ".trainable_tokens_delta.default"
"""How the name ends of rows that learn apart from their table; see `learned_rows`."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021), the same for each part that has them.

    Args:
        rank: Rank of the update of a weight.
        alpha: The update is scaled by alpha / rank, or by alpha / sqrt(rank) with `use_rslora`.
        dropout: Share of an adapter's inputs that is dropped in training.
        bias: Biases that learn: "none", "all" of the part, or "lora_only", those of the adapted layers.
        use_dora: Learn the length of each weight's rows apart from their direction (Liu et al. 2024).
        use_rslora: Scale so that a high rank learns, too (Kalajdzievski 2023).
        targets: Names of linear layers, such as q_proj or self_attn.q_proj, of each part that has adapters; by default
            all but the decoder's head.

    Raises:
        InputError: A number out of range, or an unknown word.
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.05
    bias: LoraBias = "none"
    use_dora: bool = False
    use_rslora: bool = False
    targets: list[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what peft would only stumble over, or take for something else."""
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise InputError(
                "model.lora: expected rank of at least 1, alpha above 0 and dropout in [0, 1), found "
                f"{self.rank}, {self.alpha} and {self.dropout}"
            )
        if self.bias not in get_args(LoraBias):
            raise InputError(f"model.lora.bias: expected one of {', '.join(get_args(LoraBias))}, found {self.bias!r}")
        if self.targets is not None and not (self.targets and all(self.targets)):
            raise InputError(f"model.lora.targets: expected names of layers or null for all, found {self.targets}")


def add_adapters(
    model: nn.Module,
    lora: LoraConfig | None,
    *,
    left_out: Iterable[nn.Parameter] = (),
    token_ids: Sequence[int] = (),
) -> None:
    """Put adapters into a transformers model; until one is trained, the model computes exactly what it did.

    Args:
        model: Changed in place; it keeps its class, and its layers their places.
        lora: How linear layers are adapted; None leaves them alone.
        left_out: Weights of layers that never have an adapter.
        token_ids: Rows of the word embeddings that can learn while the others are frozen; a tied head follows.

    Raises:
        InputError: A target is none of the model's linear layers.
    """
    silence_bitsandbytes()  # which peft imports where it is installed
    import peft  # two seconds, which a run without adapters need not wait
    from peft.utils.constants import DUMMY_TARGET_MODULES

    lora_options = {}
    if lora is not None:
        lora_options = {
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "bias": lora.bias,
            "use_dora": lora.use_dora,
            "use_rslora": lora.use_rslora,
        }
    layers = DUMMY_TARGET_MODULES if lora is None else find_targets(model, lora.targets, left_out=left_out)
    rows = {_name_of(model, model.get_input_embeddings()): list(token_ids)} if token_ids else None  # type: ignore[operator]
    # Without a PeftModel around it, the model's own methods and the names of its parts stay.
    peft.inject_adapter_in_model(
        peft.LoraConfig(target_modules=layers, trainable_token_indices=rows, **lora_options),  # type: ignore[arg-type]
        model,
    )


def find_targets(
    model: nn.Module, targets: Sequence[str] | None, *, left_out: Iterable[nn.Parameter] = ()
) -> list[str]:
    """Return the full names of the linear layers that targets mean.

    peft's own "all-linear" and its matching by the end of a name know nothing of parts; here the names are whole.

    Args:
        model: Where they are looked for.
        targets: Last words of their names; None for all.
        left_out: Weights of layers that are never meant.

    Raises:
        InputError: A target means no layer.
    """
    rest = {id(weight) for weight in left_out}
    names = [n for n, layer in model.named_modules() if isinstance(layer, nn.Linear) and id(layer.weight) not in rest]
    if targets is None:
        return names
    found = {target: [name for name in names if f".{name}".endswith(f".{target}")] for target in targets}
    for target, meant in found.items():
        if not meant:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise InputError(
                f"model.lora.targets: {target!r} is no linear layer of {type(model).__name__} that can be adapted; "
                f"expected some of {known}"
            )
    return [name for name in names if any(name in meant for meant in found.values())]


def lora_parameters(model: nn.Module, bias: LoraBias = "none") -> Iterator[nn.Parameter]:
    """Yield the parameters that learn where a part is trained by LoRA."""
    for name, parameter in model.named_parameters():
        is_bias = name.rpartition(".")[2] == "bias"
        is_adapted = name.endswith(".base_layer.bias")
        if is_adapter(name) or (is_bias and (bias == "all" or (bias == "lora_only" and is_adapted))):
            yield parameter


def learned_rows(embedding: nn.Module) -> nn.Parameter | None:
    """Return the rows ``(new tokens, D)`` that learn apart from a table of word embeddings; None if none do."""
    adapter: Any = getattr(embedding, "token_adapter", None)
    return None if adapter is None else cast("nn.Parameter", adapter.trainable_tokens_delta["default"])


def plain_table(embedding: nn.Module) -> nn.Embedding:
    """Return a table of word embeddings itself, from beneath the adapter of its new rows if it has one."""
    adapter: Any = getattr(embedding, "token_adapter", None)
    return cast("nn.Embedding", embedding if adapter is None else adapter.get_base_layer())


def plain_name(name: str) -> str:
    """Return the name that a parameter had before adapters were put into the model.

    >>> plain_name("decoder.model.layers.0.q_proj.base_layer.weight")
    'decoder.model.layers.0.q_proj.weight'
    """
    return name.replace(".token_adapter.base_layer.", ".").replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to a LoRA adapter.

    >>> is_adapter("decoder.model.layers.0.q_proj.lora_A.default.weight")
    True
    """
    return ".lora_" in name


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    names: Iterator[str] = (name for name, module in model.named_modules() if module is wanted)
    return next(names)

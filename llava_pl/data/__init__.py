"""Record to batch.

In reading order: sources, records, store, mixture, entries, quarantine, conversation, tokenization, picture_files,
image, anyres, dataset, load_encoder, encoded, training_data, lengths, ordering, sampler, collate, loader, train_loader,
eval_loader, conversation_datamodule, asking_datamodule, datamodule. There is no ``nn.Module`` in here. The public names
are loaded when first used, so that reading a file of records does not import Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_pl.data.datamodule import LlavaDataModule
    from llava_pl.data.encoded import EncodedRecords
    from llava_pl.data.image import ImageTransform
    from llava_pl.data.llama_tokenizer import load_tokenizer
    from llava_pl.data.picture_files import load_image
    from llava_pl.data.records import read_records
    from llava_pl.data.store import RecordStore
    from llava_pl.data.store_cache import open_store
    from llava_pl.data.tokenization import encode_conversation

_HOMES = {
    "LlavaDataModule": "datamodule",
    "ImageTransform": "image",
    "load_image": "picture_files",
    "load_tokenizer": "llama_tokenizer",
    "read_records": "records",
    "RecordStore": "store",
    "open_store": "store_cache",
    "EncodedRecords": "encoded",
    "encode_conversation": "tokenization",
}

__all__ = [
    "read_records",
    "RecordStore",
    "open_store",
    "EncodedRecords",
    "load_tokenizer",
    "encode_conversation",
    "load_image",
    "ImageTransform",
    "LlavaDataModule",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  a module attribute may be anything
    if name in _HOMES:
        return getattr(import_module(f"llava_pl.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

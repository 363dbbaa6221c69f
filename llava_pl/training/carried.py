"""What a checkpoint must tell beside its weights, so that the model can be asked as it was trained.

In: the data module of a run. Out: plain values, which `llava-pl export` reads without any of the run's files.
"""

from __future__ import annotations

from typing import Any

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.settings import DataSettings
from llava_pl.export.manifest import versions


def describe_run(data: object) -> dict[str, Any] | None:
    """Return the settings of the data, its hash where it is known, and the versions in use.

    Args:
        data: The data module; None is returned where it is no such module as ours.
    """
    if not isinstance(data, ConversationDataModule):
        return None
    return {
        "data": DataSettings.of(data.make_encoder()).to_plain(),
        "data_hash": data.train_data.content,
        "versions": versions(),
    }

"""What a checkpoint must tell beside its weights, so that the model can be asked as it was trained.

In: the data module of a run. Out: plain values, which `llava-pl export` reads without any of the run's files.
"""

from __future__ import annotations

from typing import Any

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.settings import DataSettings
from llava_pl.export.manifest import versions


def describe_run(data: object) -> dict[str, Any]:
    """Return, as ``carried``, the settings of the data, its hash where it is known, and the versions in use.

    Args:
        data: The data module; nothing is told of one that is not of this project.
    """
    if not isinstance(data, ConversationDataModule):
        return {}
    settings = DataSettings.of(data.make_encoder()).to_plain()
    return {"carried": {"data": settings, "data_hash": data.train_data.content, "versions": versions()}}

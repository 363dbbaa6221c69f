"""What a checkpoint must tell beside its weights, so that the model can be asked as it was trained.

In: the data module of a run, and its base models. Out: plain values, which `llava-pl export` reads without any of the
run's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.settings import DataSettings
from llava_pl.export.bases import write_bases
from llava_pl.export.manifest import versions
from llava_pl.export.pretrained import BaseModel


def describe_run(data: object, bases: Mapping[str, BaseModel], learned: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the data, its hash where it is known, the base models and the versions in use.

    Args:
        data: The data module; nothing is told of one that is not of this project.
        bases: By part. That they are told says as well that the checkpoint holds all that they do not.
        learned: Names in the model of what this run trains; the rest of a checkpoint is as the run found it.
    """
    told: dict[str, Any] = {}
    if bases:
        told = {"bases": write_bases(bases), "learned": list(learned), "versions": versions()}
    if not isinstance(data, ConversationDataModule):
        return told
    settings = DataSettings.of(data.make_encoder()).to_plain()
    return {**told, "data": settings, "data_hash": data.train_data.content, "versions": versions()}

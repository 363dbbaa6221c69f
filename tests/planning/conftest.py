"""The settings of a run whose activations outweigh what it has beside them."""

import pytest


@pytest.fixture
def settings(mid_parts):
    """Settings of `fit` as plain values, stage `finetune`."""
    return {
        "model": {
            "stage": "finetune",
            "vision_encoder": {"path": str(mid_parts / "encoder")},
            "decoder": {"path": str(mid_parts / "decoder")},
            "optim": {"learning_rate": 0.001},
        },
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {
                "records": str(mid_parts / "records.json"), "image_folder": str(mid_parts), "batch_size": 2,
                "num_workers": 0,
            },
        },
        "trainer": {"devices": 2, "accelerator": "gpu", "max_epochs": 3, "accumulate_grad_batches": 2},
    }  # fmt: skip

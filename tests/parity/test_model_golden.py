"""Guards: the model computes something else than the original LLaVA does with the same weights and inputs."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_pl import load_pretrained
from llava_pl.export import Pretrained
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

VARIANTS = ["mlp2x", "gqa-linear"]
# The largest difference seen in any logit was 6.2e-6. The required tolerance is 1e-4.
TOLERANCE = 1e-4


@dataclass
class Golden:
    variant: str
    folder: Path
    expected: dict
    arrays: dict

    @property
    def images(self) -> torch.Tensor:
        return torch.from_numpy(self.arrays["image_pool"].astype(np.float32))

    def load(self) -> Pretrained:
        return load_pretrained(self.folder / f"llava-{self.variant}")


@pytest.fixture(scope="module", params=VARIANTS)
def golden(request, golden_path) -> Golden:
    folder = golden_path / "model"
    expected = json.loads((folder / f"expected-{request.param}.json").read_text())
    with np.load(folder / f"expected-{request.param}.npz") as archive:
        arrays = {name: archive[name] for name in archive}
    return Golden(request.param, folder, expected, arrays)


@pytest.fixture(scope="module")
def pretrained(golden) -> Pretrained:
    return golden.load()


def expand(golden, name, num_image_tokens):
    """Return a case as the collator would hand it on: slots expanded, pictures of text-only rows left out."""
    case, arrays = golden.expected["cases"][name], golden.arrays
    ids = arrays[f"{name}/in/input_ids"].astype(np.int64)
    mask = arrays.get(f"{name}/in/attention_mask", np.ones_like(ids)).astype(bool)
    labels = arrays.get(f"{name}/in/labels", np.full_like(ids, IGNORE_INDEX)).astype(np.int64)
    max_length = case["config"].get("tokenizer_model_max_length", 2048)
    stacks = [entry if isinstance(entry, list) else [entry] for entry in case["images"] or []]
    rows, used = [], []
    for row_ids, row_mask, row_labels in zip(ids, mask, labels, strict=True):
        is_slot = row_ids[row_mask] == IMAGE_TOKEN_INDEX
        repeats = np.ones(len(is_slot), dtype=np.int64)
        if case["images"] is not None:
            # The original takes one stack of pictures per slot, and one for a row without slots.
            taken, stacks = stacks[: max(is_slot.sum(), 1)], stacks[max(is_slot.sum(), 1) :]
            repeats[is_slot] = [len(stack) * num_image_tokens for stack in taken[: is_slot.sum()]]
            used += [image for stack in taken[: is_slot.sum()] for image in stack]
        kept = np.where(is_slot, IGNORE_INDEX, row_labels[row_mask])
        rows.append((np.repeat(row_ids[row_mask], repeats)[:max_length], np.repeat(kept, repeats)[:max_length]))
    width = max(len(row) for row, _ in rows)
    left = case["config"].get("tokenizer_padding_side") == "left"
    batch = {
        "input_ids": torch.zeros(len(rows), width, dtype=torch.int64),
        "labels": torch.full((len(rows), width), IGNORE_INDEX),
        "attention_mask": torch.zeros(len(rows), width, dtype=torch.int64),
    }
    for number, (row, row_labels) in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        batch["input_ids"][number, span] = torch.from_numpy(row)
        batch["labels"][number, span] = torch.from_numpy(row_labels)
        batch["attention_mask"][number, span] = 1
    return batch, golden.images[used] if used else None


CASES = [
    "one_image", "two_images_one_sample", "mixed_image_text", "right_padding", "left_padding",
    "left_padding_right_padded_input", "truncation", "image_at_edges", "image_list_3d", "image_list_4d",
    "inference_no_mask_no_labels", "mask_with_holes", "text_only_dummy_images", "images_none",
    "more_images_than_marks", "all_labels_ignored", "first_label_of_sample_supervised",
]  # fmt: skip


def test_every_case_is_looked_at(golden):
    # The two others are refused here: see the last two tests.
    assert set(golden.expected["cases"]) == {*CASES, "truncation_inside_image", "fewer_images_than_marks"}


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_original(golden, pretrained, name):
    case, arrays, model = golden.expected["cases"][name], golden.arrays, pretrained.model
    batch, pixel_values = expand(golden, name, model.num_image_tokens)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch, pixel_values=pixel_values).logits.numpy()
        loss = model(**batch, pixel_values=pixel_values, labels=labels).loss.item()
    assert list(logits.shape) == case["logits_shape"]
    real = batch["attention_mask"].numpy() == 1
    if f"{name}/out/labels" in arrays:
        np.testing.assert_array_equal(labels.numpy(), arrays[f"{name}/out/labels"])
        np.testing.assert_array_equal(real, arrays[f"{name}/out/attention_mask"])
    np.testing.assert_allclose(
        logits[..., ::16][real], arrays[f"{name}/out/logits_every_16th"][real], atol=TOLERANCE, rtol=0
    )
    np.testing.assert_array_equal(logits.argmax(-1)[real], arrays[f"{name}/out/logits_argmax"][real])
    if case["loss"] == "nan":
        assert loss == 0.0  # Unlike LLaVA: nothing supervised is a zero that training survives
    elif case["loss"] is not None:
        assert loss == pytest.approx(case["loss"], abs=TOLERANCE)


def test_image_features_equal_original(golden, pretrained):
    with torch.no_grad():
        patch_features = pretrained.model.vision_encoder(golden.images)
        image_features = pretrained.model.encode_images(golden.images)
    assert patch_features.shape == tuple(golden.expected["features_shape"])
    for features, name in [(patch_features, "tower"), (image_features, "projected")]:
        expected = golden.arrays[f"{name}/features_every_4th"]
        np.testing.assert_allclose(features[..., ::4].numpy(), expected, atol=TOLERANCE, rtol=0)


def test_greedy_answers_equal_original(golden, pretrained):
    for case in golden.expected["greedy"].values():
        model, left = pretrained.model, case["tokenizer_padding_side"] == "left"
        rows = []
        for number, ids in enumerate(case["input_ids"]):
            mask = case["attention_mask"][number] if case["attention_mask"] else [1] * len(ids)
            kept = [token for token, attended in zip(ids, mask, strict=True) if attended]
            rows.append([t for i in kept for t in ([i] * (model.num_image_tokens if i == IMAGE_TOKEN_INDEX else 1))])
        width = max(map(len, rows))
        assert left or len(rows) == 1
        batch = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        used = [i for i, row in zip(case["images"] or [], rows, strict=False) if IMAGE_TOKEN_INDEX in row]
        new_ids = model.generate(
            batch, golden.images[used], mask, max_new_tokens=case["max_new_tokens"], do_sample=False, pad_token_id=0
        )
        expected = [row + [0] * (new_ids.shape[1] - len(row)) for row in case["new_ids"]]
        assert new_ids.tolist() == expected


def original_name(name: str) -> str:
    return name.removeprefix("decoder.model.").replace("projector", "mm_projector")


@pytest.mark.parametrize("mode", ["finetune", "align"])
def test_gradients_equal_original(golden, mode):
    expected, model = golden.expected["gradients"][mode], golden.load().model.train()
    model.requires_grad_(mode == "finetune")
    model.vision_encoder.requires_grad_(False)
    model.projector.requires_grad_(True)
    batch, pixel_values = expand(golden, expected["case"], model.num_image_tokens)
    model(**batch, pixel_values=pixel_values).loss.backward()
    gradients = {
        name if "model." in (name := original_name(own)) or name == "lm_head.weight" else f"model.{name}": p.grad
        for own, p in model.named_parameters()
        if p.grad is not None
    }
    norms = {name: gradient.norm().item() for name, gradient in gradients.items()}
    assert norms == pytest.approx(expected["norms"], abs=TOLERANCE, rel=1e-5)
    for key, array in golden.arrays.items():
        prefix, _, name = key.partition("/")
        if prefix == f"grad_{mode}" or (prefix == "grad" and mode == "finetune"):
            gradient = gradients[name if name.startswith("model.") else f"model.{name}"]
            np.testing.assert_allclose(gradient[..., ::4].numpy(), array, atol=TOLERANCE, rtol=0)


def test_stage_1_folder_gives_the_same_model(golden, pretrained):
    stage_1 = load_pretrained(
        golden.folder / f"stage1-{golden.variant}", base=golden.folder / f"llava-{golden.variant}"
    )
    expected = pretrained.model.state_dict()
    names = golden.expected["mm_projector_bin_keys"]
    assert stage_1.model.state_dict().keys() == expected.keys()
    assert {name for name in expected if name.startswith("projector")} == {
        name.removeprefix("model.mm_") for name in names if "mm_projector" in name
    }


def test_number_of_parameters_equals_original(golden, pretrained):
    # The original counts the layers above the selected one too.
    counted = sum(p.numel() for name, p in pretrained.model.named_parameters() if not name.startswith("vision_encoder"))
    expected = golden.expected["num_parameters"]
    assert counted == expected["all"] - expected["vision_tower"]


def test_fewer_pictures_than_slots_are_refused(golden, pretrained):
    batch, _ = expand(golden, "right_padding", pretrained.model.num_image_tokens)
    with pytest.raises(ValueError, match="image tokens in input_ids, but"):
        pretrained.model(**batch, pixel_values=golden.images[:1])


def test_a_cut_inside_an_image_is_refused(golden, pretrained):
    batch, pixel_values = expand(golden, "truncation_inside_image", pretrained.model.num_image_tokens)
    with pytest.raises(ValueError, match="expected equal numbers"):
        pretrained.model(**batch, pixel_values=pixel_values)

"""The original's dataset, driven by `dataset.py`; run with an interpreter of its packages.

A round fetches the records that it names; ``read`` is answered with the ids, the labels and the SHA-256 of the pixel
values of every record.
"""

from __future__ import annotations

import hashlib
import sys

from harness import Channel


def open_dataset(checkout: str, records: str, image_folder: str, tokenizer: str):  # noqa: ANN201
    """Return the dataset as the original's second stage makes it."""
    sys.path.insert(0, checkout)
    from llava import conversation
    from llava.train.train import DataArguments, LazySupervisedDataset
    from transformers import AutoTokenizer, CLIPImageProcessor

    conversation.default_conversation = conversation.conv_templates["v1"]
    slow = AutoTokenizer.from_pretrained(tokenizer, model_max_length=2048, padding_side="right", use_fast=False)
    slow.pad_token = slow.unk_token
    arguments = DataArguments(
        data_path=records, is_multimodal=True, image_folder=image_folder, image_aspect_ratio="pad"
    )
    arguments.image_processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    arguments.mm_use_im_start_end = False
    return LazySupervisedDataset(records, slow, arguments)


def main() -> None:
    """Answer until nobody asks any more."""
    channel = Channel()
    dataset = open_dataset(*sys.argv[1:])
    while request := channel.wait():
        if request["do"] == "round":
            for index in range(request["start"], request["stop"]):
                dataset[index]
            channel.answer()
        else:
            samples = [dataset[index] for index in range(len(dataset))]
            found = [
                [
                    sample["input_ids"].tolist(),
                    sample["labels"].tolist(),
                    hashlib.sha256(sample["image"].numpy().tobytes()).hexdigest(),
                ]
                for sample in samples
            ]
            channel.answer(samples=found)


if __name__ == "__main__":
    main()

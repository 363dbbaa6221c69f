"""The original's dataset, driven by `dataset.py` through its standard input; run with an interpreter of its packages.

For each line it reads, it writes one line of JSON: for ``time START STOP`` the wall and CPU seconds of fetching these
records, for ``read`` the ids, the labels and the SHA-256 of the pixel values of every record.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import torch


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
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the original prints
    torch.set_num_threads(1)
    dataset = open_dataset(*sys.argv[1:])
    for line in sys.stdin:
        question, *bounds = line.split()
        if question == "time":
            indices = range(*map(int, bounds))
            wall, cpu = time.perf_counter(), time.process_time()
            for index in indices:
                dataset[index]
            answer = [time.perf_counter() - wall, time.process_time() - cpu]
        else:
            samples = [dataset[index] for index in range(len(dataset))]
            answer = [
                [
                    sample["input_ids"].tolist(),
                    sample["labels"].tolist(),
                    hashlib.sha256(sample["image"].numpy().tobytes()).hexdigest(),
                ]
                for sample in samples
            ]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

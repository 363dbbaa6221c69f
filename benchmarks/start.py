"""Start: from the start of a process to the end of the first step, with a tiny model, beside scripts of peers.

    python benchmarks/run.py --only start

`llava-pl fit` reads a configuration, records, pictures, tokenizer and weights from disk, as do a script with
transformers' Trainer and one with TRL's SFTTrainer (`start_peers.py`). All train the projector of the same weights on
the same records. What the first rounds leave on disk (the record store, compiled Python) is there in those that count.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median

from harness import Environments, Measured, run_process, run_rounds
from report import Row, row_of

NUM_RECORDS, BATCH_SIZE = 64, 4
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
)


def write_start(folder: Path) -> None:
    """Write weights, tokenizers, records and pictures."""
    import yaml
    from character_tokenizer import WORDS, make_tokenizer
    from PIL import Image
    from step_work import IMAGE_SIDE, Size, write_work
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    # One word more: what transformers calls an image token.
    write_work(folder, Size(64, 128, 2, 2, 2, vocab_size=len(WORDS) + 1, micro_batch=1), "align")
    make_tokenizer().save_pretrained(folder / "decoder")
    with_picture = make_tokenizer("<image>")
    with_picture.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessorPil.from_pretrained(folder / "encoder")
    LlavaProcessor(
        images,
        with_picture,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder / "hf")
    Image.effect_noise((IMAGE_SIDE, IMAGE_SIDE), 90).convert("RGB").save(folder / "grey.jpg")
    turns = [{"from": "human", "value": "<image>\nWhat colour is it?"}, {"from": "gpt", "value": "grey"}]
    records = [{"id": str(place), "image": "grey.jpg", "conversations": turns} for place in range(NUM_RECORDS)]
    (folder / "records.json").write_text(json.dumps(records))
    data = {"records": "records.json", "image_folder": ".", "cache_dir": "cache", "batch_size": BATCH_SIZE}
    settings = {
        "model": {
            "stage": "align",
            "vision_encoder": {"path": "encoder"},
            "decoder": {"path": "decoder"},
            "init_from": "mm_projector.bin",
            "optim": {"learning_rate": 0.001, "warmup_share": 0.0},
        },
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": {**data, "num_workers": 0}},
        "trainer": {
            "max_steps": 10,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "start_mark.EndAfterStep"}],
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def measure(places: Environments, *, is_full: bool, num_threads: int) -> Iterator[Row]:
    """Yield the rows of a start."""
    benchmark, here = "start to the end of the first step", Path(__file__).parent
    with tempfile.TemporaryDirectory() as name:
        folder, runs = Path(name), count()
        write_start(folder)
        environment = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])}

        def run(python: Path | str, *words: str) -> Measured:
            return run_process([str(python), *words], num_threads, environment, folder)

        def fit() -> Measured:
            return run(
                sys.executable, "-m", "llava_pl", "fit", "--config", "config.yaml", "--run_dir", f"run{next(runs)}"
            )

        peers = str(here / "start_peers.py")
        ways = {"`llava-pl fit`": fit, "transformers": lambda: run(sys.executable, peers, "transformers")}
        if places.trl_python is not None:
            ways["TRL"] = lambda: run(places.trl_python or "", peers, "trl")
        found = run_rounds(ways, num_rounds=7 if is_full else 3, num_warm_ups=1)
    ours = found["`llava-pl fit`"]
    target = 1.0 if is_full else None
    for way, rounds in found.items():
        seconds = f"{median(measured.wall for measured in rounds):.1f} s"
        yield row_of(benchmark, way, seconds, rounds, None if rounds is ours else ours, target)
    if places.trl_python is None:
        yield Row(benchmark, "TRL", note="skipped: see `make_peer_envs.py`")

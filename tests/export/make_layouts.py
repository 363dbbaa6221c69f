"""Makes the committed folders of one layout version: `python tests/export/make_layouts.py tests/export/layouts_v2`.

They are made once, by the release that first writes a version, and never again: that later releases go on reading them
is what ``tests/integration/test_committed_layouts.py`` is for.
"""

import json
import os
import sys
from pathlib import Path

import torch
from lightning import Trainer
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl import LlavaDataModule, LlavaModule, load_pretrained
from llava_pl.export.carry import carry, open_source
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.models.llava import LlavaModel
from llava_pl.training.optim import OptimConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import IMAGE_TOKEN_INDEX


def make_parts() -> None:
    """Write `encoder/` and `decoder/`, a few hundred weights each."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=4, intermediate_size=4, num_hidden_layers=2, num_attention_heads=2, image_size=4, patch_size=2
    )
    CLIPVisionModel(vision).half().save_pretrained("encoder")
    size = {"size": {"shortest_edge": 4}, "crop_size": {"height": 4, "width": 4}}
    CLIPImageProcessorPil(**size).save_pretrained("encoder")
    words = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(32, 127)), "\n"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained("decoder")
    language = LlamaConfig(
        vocab_size=len(words), hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(language).half().save_pretrained("decoder")


def train(name: str, **model: object) -> None:
    """Write a checkpoint of two steps."""
    Image.new("RGB", (4, 4), (200, 40, 40)).save("a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    Path("records.json").write_text(json.dumps([{"id": "0", "image": "a.png", "conversations": turns}]))
    module = LlavaModule(
        vision_encoder=VisionEncoderConfig("encoder"),
        decoder=DecoderConfig("decoder"),
        optim=OptimConfig(learning_rate=0.1),
        frozen_dtype="float16",
        **model,
    )
    options = {"tokenizer": "decoder", "image_processor": "encoder", "num_image_tokens": 4, "num_workers": 0}
    data = LlavaDataModule(records="records.json", image_folder=".", template="mpt", batch_size=1, **options)
    trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    trainer.save_checkpoint(name, weights_only=True)
    for file in ("a.png", "records.json"):
        Path(file).unlink()


@torch.inference_mode()
def ask(model: LlavaModel) -> list[torch.Tensor]:
    """Return some of the logits for none, one and two pictures; what is asked never changes."""
    words = ((torch.arange(24) * 7 + 3) % 61).tolist()
    pictures = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    picture = [IMAGE_TOKEN_INDEX] * 4
    asked = [
        (words, None),
        (words[:8] + picture + words[16:], pictures[:1]),
        (words[:8] + picture + words[8:16] + picture + words[16:], pictures),
    ]
    return [model(torch.tensor([ids]), pixels).logits[0, ::5, ::9].float() for ids, pixels in asked]


def main(target: Path) -> None:
    """Write every form of one model into a new folder."""
    target = target.resolve()
    target.mkdir(parents=True)
    os.chdir(target)
    make_parts()
    train("align.ckpt", stage="align")
    carry(open_source(Path("align.ckpt")), Path("projector"), "projector")
    Path("align.ckpt").unlink()
    lora = LoraConfig(rank=1, targets=["q_proj", "up_proj"])
    train("run.ckpt", stage="finetune", trainable=TrainablePlan(decoder="lora"), lora=lora)
    run = open_source(Path("run.ckpt"))
    carry(run, Path("lora"), "lora")
    carry(run, Path("artifact"), "artifact")
    for layout in ("hf", "llava"):
        carry(open_source(Path("artifact")), Path(layout), layout)
    config = Path("llava", "config.json")  # where it lay when it was made is nobody's business
    config.write_text(config.read_text().replace(str(target / "llava" / "vision_tower"), "vision_tower"))
    manifest = json.loads(Path("llava", "manifest.json").read_text())
    manifest["files"]["config.json"] = None
    Path("llava", "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    answers = [answer.tolist() for answer in ask(load_pretrained("artifact").model)]
    Path("answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

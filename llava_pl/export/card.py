"""`README.md` of a folder: what it is, how it is loaded and asked, and what was checked.

In: a model, the form that it is written in and what its certificate says. Out: the text of a model card.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_pl.export.assemble import describe
from llava_pl.export.certificate import Comparison
from llava_pl.export.original import find_unknown
from llava_pl.export.pretrained import Layout, Pretrained

LOADING = {
    "artifact": """```python
from llava_pl import load_pretrained

llava = load_pretrained("FOLDER")
```""",
    "hf": """```python
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained("FOLDER", dtype="auto")
processor = AutoProcessor.from_pretrained("FOLDER")
content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
inputs = processor(text=prompt, images=picture, return_tensors="pt")
```

The chat template writes the begin mark; the tokenizer adds none. A prompt without the template needs one by hand.""",
    "llava": """With the original LLaVA's code, as a model path. `mm_vision_tower` in `config.json` is the absolute path
of `vision_tower/` here; change it when this folder moves, and write `"config.json": null` under `"files"` in
`manifest.json`, so that llava_pl takes it, too. Its loader looks for "llava" in the model's name.""",
    "projector": """With `pretrain_mm_mlp_adapter` of the original LLaVA's code, `model.init_from` of llava_pl, or
`llava-pl import FOLDER NEW --base LANGUAGE_MODEL`.""",
    "lora": """With the original LLaVA's code as a LoRA model path and its base, with peft's `PeftModel.from_pretrained`
upon the base, or `llava-pl import FOLDER NEW --base LANGUAGE_MODEL`.""",
}


def make_card(pretrained: Pretrained, layout: Layout, name: str, same: Sequence[Comparison]) -> str:
    """Return the text of a model card.

    Args:
        pretrained: What the folder holds.
        layout: The form that it has there.
        name: Of the folder.
        same: How it compares with the model that it was made from.
    """
    settings, origin = pretrained.settings, pretrained.origin
    # The hub takes no other names than its own.
    bases = "".join(f"- {base.name}\n" for base in origin.bases.values() if "/" in base.name)
    said = [row for row in same if row.answer == "logits"]
    worst = max((row.logit_difference for row in said), default=0.0)
    agreement = min((row.token_agreement for row in said), default=1.0)
    facts = [
        f"- conversation template `{settings.template}`",
        f"- pictures: `{settings.image_aspect}`"
        + (", marks around image slots" if settings.image_start_end else "")
        + (", photographs turned upright by their EXIF orientation" if settings.respect_exif else ""),
        f"- projector `{pretrained.projector}`, {pretrained.model.num_image_tokens} image tokens for a picture",
        *(f"- {part} made from {base.name}" for part, base in origin.bases.items()),
        f"- {len(origin.trained)} trained tensors, listed in `manifest.json`" if origin.trained else "",
    ]
    limits = ""
    if layout == "hf" and settings.respect_exif:
        limits = "The stock processor does not turn photographs upright: give it `ImageOps.exif_transpose(picture)`.\n"
    if layout == "hf":
        limits += (
            "With torchvision it resizes by other code, which moves pixel values by up to a level; "
            "`AutoProcessor.from_pretrained(..., use_fast=False)` asks for the exact ones.\n\n"
        )
    unknown = find_unknown(describe(pretrained.model, pretrained.projector, pretrained.projector_options), settings)
    if layout in ("projector", "lora") and unknown is not None:
        limits = f"The original's code cannot read this folder: it knows no {unknown}.\n\n"
    head = f"base_model:\n{bases}" if bases else ""
    return (
        f"---\nlibrary_name: {'transformers' if layout == 'hf' else 'llava_pl'}\n"
        f"pipeline_tag: image-text-to-text\n{head}---\n\n# {name}\n\n"
        + "\n".join(fact for fact in facts if fact)
        + f"\n\n## Loading\n\n{LOADING[layout].replace('FOLDER', name)}\n\n{limits}## Checked\n\n"
        f"Read back and asked fixed questions with no, one and two pictures: logits within {worst:.3g} of those of the "
        f"model that it was made from, {agreement:.1%} of the words the same. See `certificate.json`.\n"
    )

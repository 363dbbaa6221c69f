"""Files to models and back: transformers folders, the original LLaVA layout, this project's checkpoints.

In reading order. A run's configuration to its model: weights (numpy_values), part_configs, parts, build,
initial_weights. A path to a `Pretrained`: pretrained, layouts, and for each form its reader: artifact (assemble,
tokenizer_files), hf, original and original_folder, lora_folder, run_checkpoint (checkpoint_file, bases, lora). A
`Pretrained` to a folder: carry, and for each form its writer: artifact, hf (hf_processor, chat_template),
original_writing, lora_folder; beside each manifest, certificate, asking and card.
"""

from llava_pl.export.layouts import load_pretrained
from llava_pl.export.pretrained import Pretrained

__all__ = ["Pretrained", "load_pretrained"]

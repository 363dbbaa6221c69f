"""Short help pages of `fit`, `validate`, `test` and `predict`; their hundreds of options are behind `--help all`."""

from __future__ import annotations

from collections.abc import Sequence

EXAMPLES = {
    "fit": """\
  llava-pl fit --config configs/experiment/align_7b.yaml
  llava-pl fit --config configs/experiment/finetune_7b.yaml --model.init_from FILE
  llava-pl fit --config configs/experiment/finetune_7b.yaml --config configs/strategy/fsdp2.yaml
  llava-pl fit --config configs/experiment/finetune_7b.yaml --ckpt_path last""",
    "validate": """\
  llava-pl validate --config configs/experiment/scienceqa_7b.yaml --ckpt_path FILE""",
    "test": """\
  llava-pl test --config configs/experiment/scienceqa_7b.yaml --ckpt_path FILE
  llava-pl test --config configs/experiment/scienceqa_7b.yaml --ckpt_path FILE --blind""",
    "predict": """\
  llava-pl predict --config configs/experiment/scienceqa_7b.yaml --ckpt_path FILE""",
}

WHAT = {
    "fit": "Train: stage align the projector, stage finetune projector and decoder.",
    "validate": "Measure the loss on records, and answer questions of ScienceQA's validation and of other tasks.",
    "test": "Answer the questions of ScienceQA's test and of other tasks, and score the answers.",
    "predict": "Write answers to questions without scoring them.",
}

SAVING = """
  --save_every_minutes X   save on the way; also --save_every_n_steps N, --keep_checkpoints N"""

AUTO = """; auto: --run_dir's"""

PAGE = """usage: llava-pl {command} --config FILE [--config FILE ...] [--SETTING VALUE ...]

{what}

examples
{examples}

options
  --config FILE            settings; later files and options win over earlier ones
  --print_config           show the settings that a command line amounts to, and end
  --name NAME              the run's folder is runs/NAME/TIME; --run_dir FOLDER: that folder
  --ckpt_path FILE         where to start from; last: the newest run of this name{auto}
  --seed_everything N      of everything that is drawn by chance (0){saving}

groups of settings, each as in a file: `eps: 1` below `model: optim:` is --model.optim.eps 1
  --model.*                stage, what is trained, LoRA, where weights start from
  --model.vision_encoder.* which encoder, which of its layers
  --model.decoder.*        which language model, its attention, bits and kernels
  --model.optim.*          learning rates, their schedule, the optimizer
  --model.generation.*     how questions are answered
  --data                   data module: LlavaDataModule (records) or ScienceQADataModule
  --data.*                 files, pictures, templates, batch sizes, workers, tasks
  --trainer.*              Lightning's Trainer: devices, precision, strategy, epochs, loggers

more
  llava-pl {command} --help all | less               every option, with its type and default
  llava-pl {command} --data.help LlavaDataModule     the options of a class
  llava-pl completion bash                     let TAB complete them
"""


def find_help(words: Sequence[str]) -> str | None:
    """Return what help a command line asks for: "page" for the short page, "all" for every option, None for none.

    Args:
        words: What follows the command.

    >>> find_help(["--config", "a.yaml", "--help"]), find_help(["-h", "all"]), find_help(["--name", "help"])
    ('page', 'all', None)
    """
    place = next((place for place, word in enumerate(words) if word in ("-h", "--help")), None)
    if place is None:
        return None
    return "all" if list(words[place + 1 :]) == ["all"] else "page"


def fit_page(command: str) -> str:
    """Return the short page of a command."""
    is_fit = command == "fit"
    return PAGE.format(
        command=command,
        what=WHAT[command],
        examples=EXAMPLES[command],
        saving=SAVING if is_fit else "",
        auto=AUTO if is_fit else "",
    )

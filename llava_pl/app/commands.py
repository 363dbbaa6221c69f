"""The commands by name: what each does, and the module that runs it. Nothing here imports torch."""

from __future__ import annotations

FIT_COMMANDS = ("fit", "validate", "test", "predict")
"""Commands of Lightning."""

CARRY_COMMANDS = ("import", "export", "certify")
"""Commands of `carry_commands.py`."""

APP_COMMANDS = {
    "chat": "talk.chat_command",
    "web": "talk.web_command",
    "serve": "talk.serve_command",
    "doctor": "doctor",
    "eval": "evaluation.eval_commands",
    "plan": "plan",
    "runs": "runs_command",
    "data": "data.data_commands",
    "verify": "verify.verify_commands",
    "demo": "demo_command",
    "completion": "completion_command",
}
"""Commands of `llava_pl/app`, each with its module, of which the command line runs `main`."""

SUMMARIES = {
    "fit": "train stage align or finetune",
    "validate": "measure the loss on records, answer questions of ScienceQA's validation and of others",
    "test": "answer questions of ScienceQA's test and of other tasks",
    "predict": "write answers without scoring them",
    "import": "make any form of a model one folder: the original's, llava-hf's, a run's checkpoint",
    "export": "write a model as transformers, servers or the original's code read it",
    "certify": "ask two forms of a model the same questions",
    "chat": "talk with a model about pictures",
    "web": "the same on a page, which draws where the model looked for each word",
    "serve": "the same for programs, with OpenAI's interface",
    "doctor": "say what this machine has, what of it works, and what is missing for what",
    "eval": "score saved answers: tables with intervals, comparisons, pages",
    "plan": "say what a run needs: memory, disk, work and hours, without a GPU",
    "runs": "list runs: state, steps, last losses, how to go on; draw their curves",
    "data": "look at a record as training sees it, check all of them, prove what a run has seen",
    "verify": "prove that a run's numbers do not depend on ranks or accumulation",
    "demo": "the whole recipe in small: draw data, train both stages, evaluate, show pictures",
    "completion": "print what makes a shell complete all of this with TAB",
}
"""What each command does, in the order of the help page."""

COMMANDS = tuple(SUMMARIES)

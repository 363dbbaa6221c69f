"""Guards: a view on which a wrong mask is not seen at a glance."""

import io
import json

from rich.console import Console

from llava_pl.app.data.lens import View, look_at
from llava_pl.app.data.lens_terminal import print_view
from llava_pl.app.data.stretches import Stretch, Token
from llava_pl.app.load_data import load_data

# By hand: the preamble and "USER: " have 161 characters, the picture 4 positions, " red</s>" 5.
CONVERSATION = """\
record 0 of records, id 'good': 188 tokens, 5 supervised (2.7 %), 1 image
positions  what   text
    0-161  read   <s>A chat between a curious user and an artificial intelligence assistant. The assistant gives \
helpful, detailed, and polite answers to the user's questions. USER:
  162-165  image  [image: 4 tokens]
  166-182  read   \u21b5What? ASSISTANT:
  183-187  learn   red</s>
read = read, not supervised  learn = learned: supervised  image = filled by a picture
"""

# The second answer, " yes</s>", loses its last two tokens.
CUT = """\
record 0 of records, id '7': 210 tokens, 8 supervised (3.8 %), 1 image, 2 cut off
positions  what   text
    0-161  read   <s>A chat between a curious user and an artificial intelligence assistant. The assistant gives \
helpful, detailed, and polite answers to the user's questions. USER:
  162-165  image  [image: 4 tokens]
  166-182  read   \u21b5What? ASSISTANT:
  183-187  learn   red</s>
  188-206  read   USER: A? ASSISTANT:
  207-209  learn   ye
           cut    [cut: 2 tokens]
read = read, not supervised  learn = learned: supervised  image = filled by a picture  cut = cut off, never seen
"""


def shown(view, **options):
    file = io.StringIO()
    print_view(view, Console(file=file, **{"width": 200, "color_system": None} | options))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def test_a_conversation(zoo):
    data = load_data(["--config", str(zoo / "config.yaml"), "--data.template", "vicuna_v1"])
    assert shown(look_at(data, 0)) == CONVERSATION


def test_two_exchanges_that_are_cut(zoo):
    texts = ["<image>\nWhat?", "red", "A?", "yes"]
    turns = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]
    (zoo / "records.json").write_text(json.dumps([{"id": 7, "image": "good.png", "conversations": turns}]))
    words = ["--data.template", "vicuna_v1", "--data.max_length", "210"]
    assert shown(look_at(load_data(["--config", str(zoo / "config.yaml"), *words]), 0)) == CUT


def stretch(kind, text, start=0):
    return Stretch(kind, tuple(Token(start + n, n, character, kind) for n, character in enumerate(text)))


def test_what_is_wrong_is_said_in_words():
    view = View("a", 3, "a", (stretch("read", "ab"), stretch("wrong", "c", 2)), 0)
    assert (
        shown(view)
        == """\
record 3 of a, id 'a': 3 tokens, 0 supervised (0.0 %), 0 images
positions  what   text
      0-1  read   ab
        2  wrong  c
read = read, not supervised  wrong = label and token differ
nothing is supervised: this sample teaches nothing
labels differ from the tokens that they stand at: this sample teaches other words
"""
    )


def test_a_record_that_the_quarantine_leaves_out_says_so():
    view = View("a", 3, "x", (stretch("learn", "ab"),), 2, quarantined="picture_broken")
    assert shown(view).splitlines()[-1] == "left out by data.quarantine: picture_broken"


def test_neighbouring_learned_tokens_have_different_colours():
    view = View("x\x1b", 0, "a", (stretch("read", "x"), stretch("learn", "yz", 1)), 2)
    line = shown(view, color_system="standard", force_terminal=True).splitlines()[3]
    assert "\x1b[30;42my\x1b[0m\x1b[30;102mz\x1b[0m" in line


def test_text_is_no_markup_and_no_escape_sequence():
    view = View("x\x1b", 0, "[bold]\x1b[2J", (stretch("read", "[red]x[/red]"),), 1)
    output = shown(view)
    assert "[red]x[/red]" in output
    assert output.startswith("record 0 of x\\x1b, id '[bold]\\x1b[2J': ")

"""The chat page: questions about pictures, answers as they are written, and where the model looked for each word.

In: a model. Out: a page of Gradio's. The server keeps nothing of a conversation but uploaded pictures, in a folder of
its own; each question comes with the whole conversation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from threading import Lock
from traceback import print_exception
from typing import TYPE_CHECKING, Any

from PIL import Image

from llava_pl.app.chat import Conversation
from llava_pl.app.open_model import OpenModel
from llava_pl.evaluation.chat import Sampling
from llava_pl.evaluation.looking import LookMethod, Looks
from llava_pl.evaluation.overlay import draw_overlay
from llava_pl.models.projector import keeps_grid
from llava_pl.types import InputError
from llava_pl.visible import visible

if TYPE_CHECKING:
    import gradio

MAX_WORDS = 200
"""Words of an answer that can be chosen: of more, the first."""

NO_ANSWER = "no answer"
"""Marks what stands in the place of an answer that could not be given, and is no part of the conversation."""

# Sharing would send a picture to another host.
STYLE = """
.words label {padding: 2px 8px; min-width: 0}
.words label input {display: none}
.words label span {margin: 0}
.words label.selected {background: var(--primary-200); color: black}
.message-content .md {white-space: pre-wrap}
footer, button[aria-label="Share"] {display: none !important}
"""

Message = Mapping[str, Any]
"""One of Gradio's: ``role``, and ``content`` as a list of parts, each a text or a file."""

Asked = Mapping[str, Any]
"""What Gradio makes of a question: its ``text``, and ``files``, each a path or a mapping that has one."""


def make_page(opened: OpenModel, sampling: Sampling, examples: Sequence[tuple[str, Path]]) -> gradio.Blocks:
    """Return the page.

    Args:
        opened: The model. It answers one question at a time; others wait in a queue.
        sampling: What the sliders show at first.
        examples: Questions about pictures that can be clicked on.
    """
    import gradio as gr

    desk = Desk(opened, sampling.seed)

    def answer(asked: Asked, history: list[Message], *how: float) -> Generator[tuple[str | gr.ChatMessage, Any]]:
        text = ""
        try:
            for text in desk.answer(asked, history, *how):
                yield text, gr.skip()
            yield text, _choose(desk.list_words([*history, *_as_messages(asked, text)]))
        except Exception as error:  # whatever it is, the page must not stand still
            # As a message: an error of Gradio's would leave the page without a place to ask the next question.
            yield gr.ChatMessage(content=f"No answer: {error}", metadata={"id": NO_ANSWER}), gr.skip()
            if not isinstance(error, InputError):
                print_exception(error)

    def list_words(history: list[Message]) -> Any:  # noqa: ANN401
        with _errors_shown():
            return _choose(desk.list_words(history))

    def draw(history: list[Message], word: int | None, method: LookMethod) -> list[tuple[Image.Image, str]]:
        with _errors_shown():
            return [] if word is None else desk.draw(history, word, method)

    page: gradio.Blocks
    with gr.Blocks(title=f"{opened.name} - llava_pl", fill_height=True, analytics_enabled=False) as page:
        gr.Markdown(f"### {opened.name}")
        words = gr.Radio([], label="Words", elem_classes="words", elem_id="words", render=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3):
                chatbot = gr.Chatbot(
                    height="65vh",
                    label=opened.name,
                    render_markdown=False,
                    feedback_options=None,
                    buttons=["copy", "copy_all"],
                    render=False,
                )
                _keep_lines(chatbot)
                question = gr.MultimodalTextbox(
                    placeholder="Ask something; pictures may be pasted or dropped here",
                    file_types=["image"],
                    file_count="multiple",
                    sources=["upload"],
                    stop_btn=True,
                    render=False,
                )
                gr.ChatInterface(
                    answer,
                    multimodal=True,
                    chatbot=chatbot,
                    textbox=question,
                    additional_inputs=_make_sliders(sampling),
                    additional_inputs_accordion=gr.Accordion("How words are chosen", open=False, render=False),
                    additional_outputs=words,
                    examples=[[{"text": text, "files": [str(path)]}] for text, path in examples],
                    cache_examples=False,
                    run_examples_on_click=False,
                    concurrency_limit=1,
                    api_visibility="private",
                )
            with gr.Column(scale=2):
                gr.Markdown("#### Where it looks\nChoose a word of the last answer.")
                words.render()  # type: ignore[no-untyped-call]
                method = gr.Radio(
                    [(name, name) for name in desk.methods], value=desk.methods[0], label="Drawn is", elem_id="method"
                )
                maps = gr.Gallery(label="Pictures", columns=1, height="auto", object_fit="contain", elem_id="maps")
                gr.Markdown(
                    "Bright is where attention is high, the mean over layers and heads, or where a small change would "
                    "change the word's likelihood most (gradient). Neither proves what the answer comes from."
                )
        private: dict[str, Any] = {"api_visibility": "private"}
        question.stop(list_words, chatbot, words, **private)
        for event in (question.submit, chatbot.retry, chatbot.undo, chatbot.clear):
            event(lambda: (_choose([]), []), None, [words, maps], queue=False, **private)
        for event in (words.input, method.input):
            event(draw, [chatbot, words, method], maps, concurrency_limit=1, concurrency_id="looks", **private)
    page.queue(max_size=64, api_open=False)
    return page


class Desk:
    """Answers what the page asks of the model, one question at a time.

    Args:
        opened: The model.
        seed: Of answers that are drawn.
    """

    def __init__(self, opened: OpenModel, seed: int | None) -> None:
        self._opened, self._seed = opened, seed
        self._lock = Lock()  # a stopped answer may take one more step while the next begins
        self.methods = ["attention", "gradient"] if keeps_grid(opened.model.projector) else ["gradient"]

    def answer(
        self, asked: Asked, history: Sequence[Message], temperature: float, top_p: float, length: float
    ) -> Generator[str]:
        """Yield the answer so far, longer each time.

        Args:
            asked: The question.
            history: What was said before.
            temperature: As for `Sampling`, and so the rest.
            top_p: Of the likeliest words.
            length: The most new tokens.

        Raises:
            InputError: A picture cannot be read, or the conversation is too long.
        """
        sampling = Sampling(int(length), temperature, top_p, self._seed)
        with self._lock:
            conversation = read_history(history, self._opened, sampling)
            for path in _paths(asked):
                _show(conversation, path)
            text = ""
            for piece in conversation.ask(asked["text"]):
                text += piece
                yield text

    def list_words(self, history: Sequence[Message]) -> list[tuple[str, int]]:
        """Return the words of the last answer, each with its number; none without a picture."""
        conversation = read_history(history, self._opened, Sampling())
        if not conversation.turns or not conversation.pictures:
            return []
        return [(word, number) for number, word in enumerate(self._look(conversation).words[:MAX_WORDS])]

    def draw(self, history: Sequence[Message], word: int, method: LookMethod) -> list[tuple[Image.Image, str]]:
        """Return the pictures of a conversation, each with where the model looked for a word, and a line about it."""
        conversation = read_history(history, self._opened, Sampling())
        with self._lock:
            looks = self._look(conversation)
            maps = looks.maps(word, method)
        highest = max(float(each.max()) for each in maps)
        drawn = []
        for (_, picture), values in zip(conversation.pictures, maps, strict=True):
            seen = self._opened.encoder.find_seen(picture.size)
            share = f": {100 * float(values.sum()):.1f} % of its attention is here" if method == "attention" else ""
            drawn.append((draw_overlay(picture, values, seen, top=highest), f"{looks.words[word]}{share}"))
        return drawn

    def _look(self, conversation: Conversation) -> Looks:
        pictures = [picture for _, picture in conversation.pictures]
        return Looks(self._opened.model, self._opened.encoder, conversation.turns, pictures)


def read_history(history: Sequence[Message], opened: OpenModel, sampling: Sampling) -> Conversation:
    """Return the conversation that a page has shown; a question without an answer, as after an error, is no part of it.

    Raises:
        InputError: A picture of it is not there any more.
    """
    conversation, question, paths = Conversation(opened, sampling), "", []
    for message in history:
        text = "".join(part["text"] for part in message["content"] if part["type"] == "text")
        is_answer = (message.get("metadata") or {}).get("id") != NO_ANSWER
        if message["role"] == "user":
            question = text
            paths = [part["file"]["path"] for part in message["content"] if part["type"] == "file"]
        elif is_answer and text.strip() and question:
            for path in paths:
                _show(conversation, path)
            conversation.take(question, text)
            question = ""
    return conversation


def _paths(asked: Asked) -> list[str]:
    return [file if isinstance(file, str) else file["path"] for file in asked["files"]]


def _as_messages(asked: Asked, answer: str) -> list[Message]:
    """Return a question and its answer as the page shows them."""
    files = [{"type": "file", "file": {"path": path}} for path in _paths(asked)]
    question = {"role": "user", "content": [*files, {"type": "text", "text": asked["text"]}]}
    return [question, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def _show(conversation: Conversation, path: str) -> None:
    """Show a picture; what goes wrong is said without the server's folders."""
    try:
        conversation.show(path)
    except InputError as error:
        raise InputError(str(error).replace(path, Path(path).name)) from error


def _choose(words: Sequence[tuple[str, int]]) -> Any:  # noqa: ANN401
    """Return what makes these the words that can be chosen."""
    import gradio as gr

    return gr.Radio(choices=list(words), value=None)


def _keep_lines(chatbot: Any) -> None:  # noqa: ANN401
    """Have a chatbot hold text as it is: Gradio would take indentation from bare strings, and spaces for tabs."""
    postprocess = chatbot.postprocess

    def keep(messages: Sequence[Message] | None) -> Any:  # noqa: ANN401
        return postprocess([{**message, "content": _as_parts(message["content"])} for message in messages or []])

    chatbot.postprocess = keep


def _as_parts(content: Any) -> list[Any]:  # noqa: ANN401
    parts = content if isinstance(content, list) else [content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _make_sliders(sampling: Sampling) -> list[Any]:
    import gradio as gr

    most = max(2048, sampling.max_new_tokens)
    return [
        gr.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature", info="0: the likeliest", render=False),
        gr.Slider(0.05, 1, sampling.top_p, step=0.05, label="Top p", info="words of this share", render=False),
        gr.Slider(1, most, sampling.max_new_tokens, step=1, label="Longest answer", info="in tokens", render=False),
    ]


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Have the page show an error as text until it is closed; what is not the user's is printed here as well."""
    import gradio as gr

    try:
        yield
    except (InputError, RuntimeError) as error:  # the latter of torch: no memory is left
        text = escape(visible(str(error)))  # Gradio takes it for HTML
        raise gr.Error(text, duration=None, print_exception=not isinstance(error, InputError)) from error

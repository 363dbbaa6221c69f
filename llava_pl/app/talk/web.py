"""The chat page: questions about pictures, answers as they are written, and where the model looked for each word.

In: a model, behind a `Desk`. Out: a page of Gradio's. The server keeps nothing of a conversation but uploaded pictures,
in a folder of its own; each question comes with the whole conversation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from traceback import print_exception
from typing import TYPE_CHECKING, Any

from PIL import Image

from llava_pl.app.open_model import OpenModel
from llava_pl.app.talk.desk import NO_ANSWER, Asked, Desk, Message, as_messages
from llava_pl.evaluation.chat import Sampling
from llava_pl.evaluation.looking import LookMethod
from llava_pl.types import InputError
from llava_pl.visible import visible

if TYPE_CHECKING:
    import gradio

# Sharing would send a picture to another host.
STYLE = """
.words label {padding: 2px 8px; min-width: 0}
.words label input {display: none}
.words label span {margin: 0}
.words label.selected {background: var(--primary-200); color: black}
.message-content .md {white-space: pre-wrap}
footer, button[aria-label="Share"] {display: none !important}
"""


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
        except Exception as error:  # whatever it is, the page must not stand still
            # As a message: an error of Gradio's would leave the page without a place to ask the next question.
            yield gr.ChatMessage(content=f"No answer: {_say(error)}", metadata={"id": NO_ANSWER}), gr.skip()
            return
        try:
            words = desk.list_words([*history, *as_messages(asked, text)])
        except Exception as error:  # the answer stays
            gr.Warning(escape(f"No words to choose: {_say(error)}"), duration=None)
            words = []
        yield text, _choose(words)

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
                _hold_plain_parts(chatbot)
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


def _choose(words: Sequence[tuple[str, int]]) -> Any:  # noqa: ANN401
    """Return what makes these the words that can be chosen."""
    import gradio as gr

    return gr.Radio(choices=list(words), value=None)


def _hold_plain_parts(chatbot: Any) -> None:  # noqa: ANN401
    """Have a chatbot hold texts as they are, and files, and nothing else.

    Of bare strings Gradio would take indentation away, and make tabs spaces; halves of letters, which a browser may
    send, cannot be sent back. Of other parts it would build components with whatever arguments a message names, files
    of this machine among them.
    """
    import gradio as gr

    preprocess, postprocess = chatbot.preprocess, chatbot.postprocess

    def take(payload: Any) -> Any:  # noqa: ANN401
        kinds = {part.type for message in payload.root for part in message.content} if payload else set()
        if strange := kinds - {"text", "file"}:
            raise gr.Error(f"a message: expected texts and pictures, found a {strange.pop()}", print_exception=False)
        return preprocess(payload)

    def give(messages: Sequence[Message] | None) -> Any:  # noqa: ANN401
        return postprocess([{**message, "content": _as_parts(message["content"])} for message in messages or []])

    chatbot.preprocess, chatbot.postprocess = take, give


def _as_parts(content: Any) -> list[Any]:  # noqa: ANN401
    parts = content if isinstance(content, list) else [content]
    return [
        {"type": "text", "text": part.encode(errors="replace").decode()} if isinstance(part, str) else part
        for part in parts
    ]


def _make_sliders(sampling: Sampling) -> list[Any]:
    import gradio as gr

    most = max(2048, sampling.max_new_tokens)
    return [
        gr.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature", info="0: the likeliest", render=False),
        gr.Slider(0.05, 1, sampling.top_p, step=0.05, label="Top p", info="words of this share", render=False),
        gr.Slider(1, most, sampling.max_new_tokens, step=1, label="Longest answer", info="in tokens", render=False),
    ]


def _say(error: Exception) -> str:
    """Return what an error says, as a line; what is not the user's is printed here as well."""
    if not isinstance(error, InputError):
        print_exception(error)
    return visible(str(error))


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Have the page show an error as text until it is closed."""
    import gradio as gr

    try:
        yield
    except Exception as error:
        # Gradio takes it for HTML.
        raise gr.Error(escape(_say(error)), duration=None, print_exception=False) from error

"""Guards the page around the model: lines that lose their indentation, errors that are swallowed or read as HTML."""

import pytest

from llava_pl.app import web
from llava_pl.types import InputError

pytestmark = pytest.mark.app  # Gradio takes seconds to import


def test_text_is_kept_as_it_is():
    import gradio as gr

    chatbot = gr.Chatbot()
    web._keep_lines(chatbot)
    lines = "a\n    b\n\tc"
    messages = [
        {"role": "user", "content": [lines, {"type": "text", "text": lines}]},
        {"role": "assistant", "content": lines, "metadata": {"id": "1"}},
    ]
    found = chatbot.postprocess(messages).root
    assert [[part.text for part in message.content] for message in found] == [[lines, lines], [lines]]
    assert found[1].metadata["id"] == "1"
    assert chatbot.postprocess(None).root == []


@pytest.mark.parametrize(("error", "is_printed"), [(InputError, False), (RuntimeError, True), (KeyError, True)])
def test_every_error_is_shown_as_text(error, is_printed, capsys):
    import gradio as gr

    with pytest.raises(gr.Error) as shown, web._errors_shown():
        raise error("<b>\n\x1b")
    assert "&lt;b&gt;" in shown.value.message
    assert "\x1b" not in shown.value.message
    assert (error.__name__ in capsys.readouterr().err) is is_printed

"""Guards the page around the model: lines that lose their indentation, errors that are swallowed or read as HTML."""

import pytest

from llava_pl.app.talk import web
from llava_pl.types import InputError

pytestmark = pytest.mark.app  # Gradio takes seconds to import


def test_text_is_kept_as_it_is():
    import gradio as gr

    chatbot = gr.Chatbot()
    web._hold_plain_parts(chatbot)
    lines = "a\n    b\n\tc"
    messages = [
        {"role": "user", "content": [lines, {"type": "text", "text": lines}]},
        {"role": "assistant", "content": lines, "metadata": {"id": "1"}},
    ]
    found = chatbot.postprocess(messages).root
    assert [[part.text for part in message.content] for message in found] == [[lines, lines], [lines]]
    assert found[1].metadata["id"] == "1"
    assert chatbot.postprocess(None).root == []
    assert [message["content"] for message in chatbot.preprocess(chatbot.postprocess(messages))] == [
        [{"text": lines, "type": "text"}] * 2, [{"text": lines, "type": "text"}],
    ]  # fmt: skip


def test_no_component_is_built_of_a_message():
    import gradio as gr

    chatbot = gr.Chatbot()
    web._hold_plain_parts(chatbot)
    part = {"type": "component", "component": "textbox", "value": "a", "constructor_args": {"label": "b"}, "props": {}}
    payload = chatbot.data_model.model_validate([{"role": "user", "content": [part]}])
    with pytest.raises(gr.Error, match="expected texts and pictures, found a component"):
        chatbot.preprocess(payload)


@pytest.mark.parametrize(("error", "is_printed"), [(InputError, False), (RuntimeError, True), (KeyError, True)])
def test_every_error_is_shown_as_text(error, is_printed, capsys):
    import gradio as gr

    with pytest.raises(gr.Error) as shown, web._errors_shown():
        raise error("<b>\n\x1b")
    assert "&lt;b&gt;" in shown.value.message
    assert "\x1b" not in shown.value.message
    assert (error.__name__ in capsys.readouterr().err) is is_printed

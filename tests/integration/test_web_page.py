"""Guards the chat page as a person meets it: a real server, a real headless Chromium, and no way to another host."""

import base64
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_pl.app.talk import chat, desk
from llava_pl.app.talk.address import find_port
from llava_pl.app.talk.web import make_page
from llava_pl.app.talk.web_command import _own_folder, launch
from llava_pl.cli import main
from llava_pl.evaluation.chat import Sampling
from llava_pl.types import Turn

pytestmark = pytest.mark.app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it these tests are skipped, unless `LLAVA_PL_REQUIRE_BROWSER=1`, as in CI."""
    if CHROMIUM is None:
        reason = "no Chromium; install the system's package chromium"
        if os.environ.get("LLAVA_PL_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    Image.effect_noise((64, 48), 90).convert("RGB").save(folder / "noise.png")
    Image.new("RGB", (40, 60), (200, 30, 30)).save(folder / "red.png")
    (folder / "text.png").write_text("no picture")
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    return folder


@pytest.fixture(scope="module")
def model(golden_path, tiny_parts, tmp_path_factory):
    """A model with random weights whose answers end where they are cut.

    The logit of its end mark is half of that of another token, so never the highest of all.
    """
    folder = tmp_path_factory.mktemp("model")
    source = shutil.copytree(golden_path / "model" / "llava-mlp2x", folder / "source")
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"][2] = 0.5 * weights["lm_head.weight"][40]
    (source / "model.safetensors").unlink()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    place = str(folder / "tiny")
    parts = [
        "--tokenizer",
        str(tiny_parts / "decoder"),
        "--vision_encoder",
        str(golden_path / "model" / "clip-mlp2x-patch14-56"),
    ]
    assert main(["import", str(source), place, *parts]) == 0
    return place


@pytest.fixture(scope="module")
def server(model, pictures):
    """Address of a page."""
    words = ["web", model, "--port", "0", "--max_new_tokens", "12", "--image", str(pictures / "noise.png")]
    # Not of this process group: Ctrl-C is sent to it alone.
    process = subprocess.Popen(
        [sys.executable, "-m", "llava_pl", *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[0]
    assert address.startswith("http://127.0.0.1:")
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0


@pytest.fixture
def page(browser, server):
    """The page; in the end it must have asked no other host for anything, and no script may have failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, asked, failed = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(server)
    page.get_by_role("textbox").first.wait_for()
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []
    assert failed == []


@pytest.fixture
def scripted(browser, monkeypatch):
    """A page whose model says what is written here, and the turns that it was asked."""
    said, asked = [], []

    def stream(network, encoder, turns, pictures, sampling):
        asked.append(list(turns))
        yield said.pop(0)

    monkeypatch.setattr(chat, "stream_answer", stream)
    model = SimpleNamespace(projector=torch.nn.Identity())
    opened = SimpleNamespace(model=model, encoder=SimpleNamespace(respect_exif=True), name="scripted")
    port = find_port("127.0.0.1", 0, [])
    with _own_folder():
        blocks = make_page(opened, Sampling(), [])
        launch(blocks, "127.0.0.1", port)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_role("textbox").first.wait_for()
        yield page, said, asked
        page.close()
        blocks.close(verbose=False)


def ask(page, text, *files):
    if files:
        with page.expect_file_chooser() as chooser:
            page.get_by_label("Upload a file").click()
        chooser.value.set_files(files)
        page.get_by_role("button", name="Remove file").nth(len(files) - 1).wait_for()
    box = page.get_by_role("textbox").first
    box.fill(text)
    box.press("Enter")


def answers(page):
    return page.locator(".bot.message")


def wait_for_end(page, count):
    """Wait until there are so many answers and the next question can be asked."""
    page.wait_for_function(
        """count => {
            const box = document.querySelector("textarea");
            return box.value === "" && !box.disabled && document.querySelectorAll(".bot.message").length === count;
        }""",
        arg=count,
    )


def is_answered(page):
    return page.get_by_role("textbox").first.is_enabled()


def choose_length(page, length):
    number = page.get_by_label("number input for Longest answer")
    if not number.is_visible():
        page.get_by_role("button", name="How words are chosen").click()
    number.fill(str(length))
    number.press("Tab")
    # Before the page is ready the number is typed, but goes nowhere.
    page.wait_for_function(
        """length => document.querySelector("input[aria-label='range slider for Longest answer']").value === length""",
        arg=str(length),
    )


def test_answer_and_where_the_model_looked(page, pictures, model, capsys):
    ask(page, "What is it?", pictures / "noise.png")
    wait_for_end(page, 1)
    found = answers(page).inner_text()
    capsys.readouterr()
    words = ["--max_new_tokens", "12", "--image", str(pictures / "noise.png"), "--prompt", "What is it?"]
    assert main(["chat", model, *words]) == 0
    assert found.strip() == capsys.readouterr().out.strip()

    word = page.locator("#words label").first
    word.click()
    drawn = page.locator("#maps img").first
    drawn.wait_for()
    assert "of its attention is here" in page.locator("#maps").inner_text()
    attention = drawn.get_attribute("src")
    page.locator("#method").get_by_text("gradient").click()
    page.wait_for_function("old => document.querySelector('#maps img').src !== old", arg=attention)
    ask(page, "And now?")
    wait_for_end(page, 2)
    assert page.locator("#maps img").count() == 0
    assert page.locator("#words label").count() > 0


def test_lines_keep_their_indentation(scripted):
    page, said, asked = scripted
    question = "What does this do?\n    if a:\n\tb()"
    answer = "Look:\n    for each in a:\n        b(each)\n\n    end"
    said += [answer, "Yes."]
    ask(page, question)
    wait_for_end(page, 1)
    assert answers(page).inner_text() == answer
    ask(page, "Sure?")
    wait_for_end(page, 2)
    assert asked == [[Turn("human", question)], [Turn("human", question), Turn("gpt", answer), Turn("human", "Sure?")]]


def test_an_answer_stays_where_its_words_cannot_be_listed(scripted, pictures, monkeypatch):
    page, said, asked = scripted
    said += ["It is red.", "Yes."]

    def fail(*_):
        raise KeyError("<b>words</b>")

    monkeypatch.setattr(desk, "Looks", fail)
    ask(page, "What?", pictures / "red.png")
    page.get_by_text("No words to choose: '<b>words</b>'").wait_for()
    wait_for_end(page, 1)
    assert answers(page).inner_text() == "It is red."
    ask(page, "Sure?")
    wait_for_end(page, 2)
    assert [turn.text for turn in asked[1]] == ["<image>\nWhat?", "It is red.", "Sure?"]


def test_answer_comes_piece_by_piece_and_is_stopped(page, pictures):
    choose_length(page, 900)
    ask(page, "Tell a long story.", pictures / "red.png")
    # What the page shows, each time that it changes.
    page.evaluate("""() => {
        window.shown = new Set();
        const look = () => document.querySelectorAll(".bot.message").forEach(each => window.shown.add(each.innerText));
        new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
    }""")
    page.wait_for_function("window.shown.size > 5")
    page.locator("button.stop-button").click()
    wait_for_end(page, 1)
    stopped = answers(page).inner_text()
    pieces = {text for text in page.evaluate("[...window.shown]") if stopped.startswith(text)}
    assert len(pieces) > 3
    page.wait_for_timeout(500)
    assert answers(page).inner_text() == stopped
    page.locator("#words label").first.wait_for()  # of what there is of the answer
    page.get_by_role("button", name="Retry").click()
    page.locator("textarea:disabled").wait_for()
    wait_for_end(page, 1)
    whole = answers(page).inner_text()
    assert len(whole) > len(stopped)
    assert whole.startswith(stopped)


def test_regenerate_and_undo(page, pictures):
    ask(page, "What is it?", pictures / "red.png")
    wait_for_end(page, 1)
    first = answers(page).inner_text()
    page.get_by_role("button", name="Retry").click()
    page.locator("textarea:disabled").wait_for()
    wait_for_end(page, 1)
    assert answers(page).inner_text() == first  # greedy
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("document.querySelectorAll('.bot.message').length === 0")
    assert page.get_by_role("textbox").first.input_value() == "What is it?"


@pytest.mark.parametrize(("name", "message"), [("text.png", "cannot identify"), ("huge.png", "100000000 pixels")])
def test_what_is_no_picture_is_said_and_forgotten(page, pictures, name, message):
    ask(page, "What is it?", pictures / name)
    wait_for_end(page, 1)
    text = answers(page).inner_text()
    assert text.startswith(f"No answer: cannot read picture {name}")
    assert message in text
    ask(page, "Hello?")
    wait_for_end(page, 2)
    assert not answers(page).last.inner_text().startswith("No answer")


def test_two_browsers_have_two_conversations(browser, server, page, pictures):
    other = browser.new_context().new_page()
    other.goto(server)
    other.get_by_role("textbox").first.wait_for()
    for each, text in ((page, "What is it?"), (other, "Who?")):
        ask(each, text, pictures / "red.png")
    for each in (page, other):
        wait_for_end(each, 1)
    assert page.locator(".user.message").last.inner_text() == "What is it?"
    assert other.locator(".user.message").last.inner_text() == "Who?"
    other.context.close()


def test_four_ask_at_once_and_the_page_answers_a_fifth(browser, server, page, pictures):
    """One is answered at a time; the others wait in the queue, and the page goes on."""
    contexts = [browser.new_context() for _ in range(4)]
    pages = [context.new_page() for context in contexts]
    for each in pages:
        each.goto(server)
        each.get_by_role("textbox").first.wait_for()
        choose_length(each, 400)
    for each in pages:
        ask(each, "Tell a long story.")
    pages[3].locator("textarea:disabled").wait_for()
    assert not is_answered(pages[3])
    page.reload()
    page.get_by_text("Describe the picture.").click()
    page.wait_for_function("document.querySelector('textarea').value === 'Describe the picture.'")
    assert not is_answered(pages[3])
    for each in pages:
        wait_for_end(each, 1)
    assert len({answers(each).inner_text() for each in pages}) == 1
    assert len(answers(pages[0]).inner_text()) > 100
    for context in contexts:
        context.close()


def test_pasted_picture(page, pictures):
    content = base64.b64encode((pictures / "red.png").read_bytes()).decode()
    page.evaluate(
        """content => {
            const bytes = Uint8Array.from(atob(content), each => each.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
            const paste = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
            document.querySelector("textarea").dispatchEvent(paste);
        }""",
        content,
    )
    page.get_by_role("button", name="Remove file").wait_for()
    ask(page, "What is it?")
    wait_for_end(page, 1)
    page.locator("#words label").first.wait_for()  # only where there is a picture


def test_example_fills_the_question(page):
    page.get_by_text("Describe the picture.").click()
    page.wait_for_function("document.querySelector('textarea').value === 'Describe the picture.'")
    page.get_by_role("textbox").first.press("Enter")
    wait_for_end(page, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_uploads_go_when_the_server_is_told_to_end(model, tmp_path, number):
    """By `kill`, and by a terminal that is closed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llava_pl", "web", model, "--port", "0"],
        stdout=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout.readline().startswith("http://")
    assert [path for path in tmp_path.iterdir() if path.name.startswith("llava_pl-web-")]
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert [path for path in tmp_path.iterdir() if path.name.startswith("llava_pl-web-")] == []


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "../../../../etc/passwd"])
def test_no_file_of_the_machine_is_served(server, path):
    with pytest.raises(HTTPError) as error:
        urlopen(f"{server}/gradio_api/file={path}")
    assert error.value.code in (403, 404)


def test_halves_of_letters_are_refused_and_the_page_goes_on(scripted):
    page, said, asked = scripted
    page.evaluate("""() => {
        const box = document.querySelector("textarea");
        box.value = "a\\ud800";
        box.dispatchEvent(new Event("input", {bubbles: true}));
    }""")
    page.get_by_role("textbox").first.press("Enter")
    wait_for_end(page, 1)
    assert answers(page).inner_text() == r"No answer: question: expected text in UTF-8, found \ud800 as character 2"
    said.append("Yes.")
    ask(page, "And now?")
    wait_for_end(page, 2)
    assert asked == [[Turn("human", "And now?")]]

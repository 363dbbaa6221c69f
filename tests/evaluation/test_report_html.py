"""Guards a page that shows the wrong picture, runs what a model wrote, or needs the network."""

from dataclasses import replace

from PIL import Image

from llava_pl.evaluation.report import build_report
from llava_pl.evaluation.report_html import report_html
from llava_pl.types import Question, RecordError


def test_page(first):
    def load_picture(question: Question) -> Image.Image | None:
        if question.id == "8":
            raise RecordError("gone")
        return None if question.id == "9" else Image.new("RGB", (600, 300), "red")

    text = report_html(build_report("ScienceQA <1>", [first], num_examples=4), load_picture)
    assert text.count('<div class="example wrong">') == 2
    assert text.count('<div class="example right">') == 2
    assert text.count("<img ") == 2
    assert 'width="256" height="128"' in text
    assert "(the picture cannot be shown)" in text
    assert "Q0 &lt;b&gt;" in text
    assert "<b>hm|&lt;i&gt;</b>" in text
    assert "wrong: could not be read, expected A" in text
    assert "wrong: read as B, expected A" in text
    assert "80.00 (50.00 to 92.86)" in text
    assert 'style="left: 50.00%; width: 42.86%"' in text
    assert "<script" not in text
    assert "http" not in text.replace('<html lang="en">', "")


def test_partly_right_answers_and_many_choices(first):
    """An answer that some people gave is not wrong; letters go on after E."""
    question = Question("1", "?", tuple("abcdefg"), 6)
    report = build_report("T", [first], num_examples=2)
    examples = (replace(report.examples[0], question=question, credit=0.3, reading="F"),)
    text = report_html(replace(report, examples=examples), lambda _: None)
    assert "partly right (0.30): read as F, expected G" in text
    assert '<div class="example partly">' in text


def test_right_answers_in_words(first):
    question = Question("1", "?", references=("cat", "cat", "dog"))
    report = build_report("T", [first], num_examples=2)
    example = replace(report.examples[0], question=question, credit=0.0, reading="ox")
    text = report_html(replace(report, examples=(example,)), lambda _: None)
    assert "wrong: read as ox, expected cat or dog" in text

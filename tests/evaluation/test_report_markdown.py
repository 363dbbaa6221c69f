"""Guards a table whose cells break it."""

from llava_pl.evaluation.report import Answered, build_report
from llava_pl.evaluation.report_markdown import report_markdown
from llava_pl.evaluation.scores import Scores


def test_markdown(first, second):
    text = report_markdown(build_report("Science|QA", [first, second]))
    assert text.startswith("# Science\\|QA\n\n* second.jsonl: 1 of the questions")
    assert (
        "| questions | number | first.jsonl | second.jsonl |\n| --- | ---: | ---: | ---: |\n| all | 10 | 80.00" in text
    )
    assert "| id | text |\n| --- | --- |\n| 9 | hm\\|\\<i\\> |" in text
    widths = {line.replace("\\|", "").count("|") for line in text.split("\n\n")[3].splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_a_report_without_scores():
    text = report_markdown(build_report("MM-Vet", [Answered("a", [], Scores((), ()))]))
    assert text == "# MM-Vet\n\n* there is no score: what the answers are worth is said elsewhere\n"

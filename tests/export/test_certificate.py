"""Guards: a certificate that cannot fail, or that fails for nothing."""

import pytest
import torch

from llava_pl.export import certificate
from llava_pl.export.certificate import (
    Comparison,
    check_differs,
    check_same,
    coarsest_dtype,
    compare,
    look_up,
    probe,
    questions,
)
from llava_pl.types import IMAGE_TOKEN_INDEX, InputError


def test_questions_have_none_one_and_two_pictures():
    (text, none), (one, picture), (two, pictures) = questions(100, 16, 4)
    assert none is None
    assert (picture.shape, pictures.shape) == ((1, 3, 16, 16), (2, 3, 16, 16))
    for ids, num_pictures in ((text, 0), (one, 1), (two, 2)):
        assert int((ids == IMAGE_TOKEN_INDEX).sum()) == 4 * num_pictures
    assert one.tolist() == [[0, 12, 25, 38, 51, 64, 77, 90, *[-200] * 4, 8, 21, 34, 47, 60, 73, 86, 99]]


@pytest.mark.parametrize("num_words", [8, 99, 101, 32000, 151_936])
def test_questions_hold_words_of_the_whole_vocabulary(num_words):
    words = questions(num_words, 16, 4)[0][0][0]
    assert (len(words), int(words.min()), int(words.max())) == (24, 0, num_words - 1)
    assert int(words.diff().max()) <= num_words // 23 + 1


def test_questions_are_the_same_every_time():
    for again, first in zip(questions(100, 16, 4), questions(100, 16, 4), strict=True):
        assert torch.equal(again[0], first[0])
        assert again[1] is first[1] is None or torch.equal(again[1], first[1])


def test_probe_asks_in_eval_mode_and_leaves_the_model_as_it_was(llava):
    llava.model.decoder.train()
    modes = [module.training for module in llava.model.modules()]
    answers = probe(llava.model)
    assert [module.training for module in llava.model.modules()] == modes
    assert [tuple(answer.shape) for answer in answers] == [(24, 99), (20, 99), (32, 99), (99, 8)]


def test_a_model_can_be_asked_for_the_words_of_a_smaller_one(llava):
    answers = probe(llava.model, 50)
    assert [tuple(answer.shape) for answer in answers] == [(24, 99), (20, 99), (32, 99), (50, 8)]
    assert torch.equal(answers[3], probe(llava.model)[3][:50])


def test_tiled_models_are_asked_with_tiles(make_llava):
    llava = make_llava(image_aspect="anyres", grid_pinpoints=((16, 32),))
    text, one, *_ = probe(llava.model)
    # Of a picture 4 tokens of the whole, and 2 rows of 2 with a newline each.
    assert len(one) - 16 == 4 + 6
    llava.model.image_newline.data += 1
    again = probe(llava.model)
    assert torch.equal(again[0], text)
    assert not torch.equal(again[1], one)


@pytest.mark.parametrize("row", [0, 1, 45, 96, 97, 98, 99, 100])
@pytest.mark.parametrize("table", ["embedding", "head"])
def test_a_wrong_row_shows_wherever_it_is(make_llava, table, row):
    """The last two are those of new tokens."""
    model = make_llava(image_start_end=True).model
    live = probe(model)
    weight = getattr(model.decoder, table).weight
    with torch.no_grad():
        weight[row] = weight[row - 2]
    with pytest.raises(InputError, match="not certified"):
        check_same(compare(probe(model), live), torch.float32, "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wrong_row_is_no_rounding(make_llava, dtype):
    model = make_llava().model
    live = probe(model)
    model.to(dtype)
    check_same(compare(probe(model), live), dtype, "x")
    with torch.no_grad():
        model.decoder.embedding.weight[97] = model.decoder.embedding.weight[95]
    with pytest.raises(InputError, match="on each word the embeddings differ"):
        check_same(compare(probe(model), live), dtype, "x")


def test_tables_are_looked_up_a_piece_at_a_time(monkeypatch):
    monkeypatch.setattr(certificate, "ROWS_AT_ONCE", 4)
    table = torch.nn.Embedding(10, 6)
    pieces = look_up(table, 10, table.weight.device)
    assert pieces.shape == (10, 8)
    monkeypatch.setattr(certificate, "ROWS_AT_ONCE", 40)
    torch.testing.assert_close(look_up(table, 10, table.weight.device), pieces, atol=1e-6, rtol=0)


def test_words_that_both_know_are_compared():
    words, a, b = torch.zeros(4, 8), torch.zeros(2, 5), torch.zeros(2, 4)
    a[:, 4] = 9
    (row, *_) = compare([a, a, a, words], [b, b, b, words])
    assert (row.logit_difference, row.token_agreement) == (0.0, 1.0)


def test_models_with_other_encoders_do_not_compare():
    words, a, b = torch.zeros(4, 8), torch.zeros(2, 4), torch.zeros(3, 4)
    with pytest.raises(InputError, match="one image is 3 positions for one, 2 for the other"):
        compare([a, b, b, words], [a, a, a, words])


def test_answers_to_other_questions_do_not_compare(make_llava):
    small, large = make_llava(), make_llava(image_start_end=True)
    with pytest.raises(InputError, match="one was asked for 101 words, the other for 99"):
        compare(probe(large.model), probe(small.model))
    assert compare(probe(large.model, 99), probe(small.model))[3].logit_difference == 0.0


def test_a_comparison_is_a_line():
    assert str(Comparison("text", 0.25, 8.0, 0.5)) == (
        "text        logits differ by at most 0.25 of 8, 50.0% of the words agree"
    )
    assert str(Comparison("each word", 0.25, 8.0, 0.5)) == (
        "each word   embeddings differ by at most 0.25 of 8, 50.0% of the largest parts agree"
    )


@pytest.mark.parametrize(
    ("difference", "dtype", "is_same"),
    [
        (1e-4, torch.float32, True), (1e-3, torch.float32, False), (0.05, torch.float16, True),
        (0.2, torch.float16, False), (0.4, torch.bfloat16, True), (1.0, torch.bfloat16, False),
        (float("nan"), torch.bfloat16, False),
    ],
)  # fmt: skip
def test_a_difference_is_judged_by_the_dtype(difference, dtype, is_same):
    rows = [Comparison("text", difference, 10.0, 0.5)]
    if is_same:
        return check_same(rows, dtype, "x")
    with pytest.raises(InputError, match=r"x: not certified: on text the logits differ by .* 50% of the words agree"):
        check_same(rows, dtype, "x")
    return None


@pytest.mark.parametrize(
    ("difference", "dtype", "is_same"),
    [(1e-4, torch.float32, True), (1e-3, torch.float32, False), (0.005, torch.float16, True),
     (0.05, torch.float16, False), (0.05, torch.bfloat16, True), (0.4, torch.bfloat16, False)],
)  # fmt: skip
def test_words_are_rounded_once(difference, dtype, is_same):
    assert Comparison("each word", difference, 10.0, 1.0).is_within(dtype) == is_same


def answers(*levels):
    return [torch.full((1, 2), level) for level in levels]


def test_training_must_show_where_it_took_place():
    decoder, projector, table = ["decoder.model.x.weight"], ["projector.0.weight"], ["decoder.a.embed_tokens.weight"]
    live = found = answers(1.0, 2.0, 3.0, 4.0)
    assert check_differs(found, [], live, decoder, "x") == []
    for base, trained in (
        (answers(0.9, 2.0, 3.0, 4.0), decoder),
        (answers(1.0, 1.9, 3.0, 4.0), projector),
        (answers(1.0, 2.0, 3.0, 3.9), table),
        (answers(1.0, 2.0, 3.0, 3.9), ["decoder.model.transformer.wte.weight"]),
        (answers(1.0, 1.9, 3.0, 3.9), table + projector),
        (answers(0.9, 2.0, 3.0, 4.0), table + projector + decoder),
        (answers(1.0, 1.9, 3.0, 4.0), table + projector),  # kept, but not trained
    ):
        assert len(check_differs(found, base, live, trained, "x")) == 4
    for base, trained, question in (
        (answers(1.0, 1.0, 1.0, 1.0), decoder, "text"),
        (answers(0.0, 2.0, 0.0, 0.0), projector, "one image"),
        (answers(0.0, 0.0, 0.0, 4.0), table, "each word"),
        (answers(1.0, 2.0, 3.0, 3.9), table + projector, "one image"),
    ):
        with pytest.raises(InputError, match=f"on {question} .* as if it had not been trained"):
            check_differs(found, base, live, trained, "x")
    # Nearer to the base than to what was to be carried.
    base, live = answers(0.0, 0.0, 0.0, 0.0), answers(1.0, 0.0, 0.0, 1.0)
    for trained in (decoder, table):
        with pytest.raises(InputError, match="as if it had not been trained"):
            check_differs(answers(0.1, 0.0, 0.0, 0.1), base, live, trained, "x")


def test_of_a_table_the_rows_that_learned_must_differ():
    """Rounding of the others must not pass for training."""
    base, live, lost = answers(*[0.0] * 4), answers(*[0.0] * 4), answers(*[0.0] * 4)
    base[3], live[3], lost[3] = (torch.tensor([[8.0], [row]]) for row in (1.0, 1.5, 1.0))
    lost[3][0] = 8.7
    with pytest.raises(InputError, match="on each word the answers differ from those of the base by 0 alone"):
        check_differs(lost, base, live, ["decoder.embed_tokens.weight"], "x")
    kept = [*lost[:3], torch.tensor([[8.7], [1.45]])]
    check_differs(kept, base, live, ["decoder.embed_tokens.weight"], "x")


def test_the_coarsest_dtype_counts(half_llava, llava):
    assert coarsest_dtype(half_llava.model) == torch.float16
    assert coarsest_dtype(llava.model.float()) == torch.float32

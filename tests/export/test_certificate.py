"""Guards: a certificate that cannot fail, or that fails for nothing."""

import pytest
import torch

from llava_pl.export.certificate import Comparison, check_differs, check_same, coarsest_dtype, compare, probe, questions
from llava_pl.types import IMAGE_TOKEN_INDEX, InputError


def test_questions_have_none_one_and_two_pictures():
    (text, none), (one, picture), (two, pictures) = questions(100, 16, 4)
    assert none is None
    assert (picture.shape, pictures.shape) == ((1, 3, 16, 16), (2, 3, 16, 16))
    for ids, num_pictures in ((text, 0), (one, 1), (two, 2)):
        assert int((ids == IMAGE_TOKEN_INDEX).sum()) == 4 * num_pictures
        assert int(ids.max()) < 61
    assert questions(8, 16, 4)[0][0].max() < 8


def test_questions_are_the_same_every_time():
    assert all(torch.equal(a[0], b[0]) for a, b in zip(questions(100, 16, 4), questions(4000, 16, 4), strict=True))
    assert torch.equal(questions(100, 16, 4)[2][1], questions(100, 16, 4)[2][1])


def test_probe_asks_in_eval_mode_and_leaves_the_model_as_it_was(llava):
    llava.model.decoder.train()
    modes = [module.training for module in llava.model.modules()]
    answers = probe(llava.model)
    assert [module.training for module in llava.model.modules()] == modes
    assert [tuple(answer.shape) for answer in answers] == [(24, 99), (20, 99), (32, 99)]


def test_tiled_models_are_asked_with_tiles(make_llava):
    llava = make_llava(image_aspect="anyres", grid_pinpoints=((16, 32),))
    text, one, _ = probe(llava.model)
    # Of a picture 4 tokens of the whole, and 2 rows of 2 with a newline each.
    assert len(one) - 16 == 4 + 6
    llava.model.image_newline.data += 1
    again = probe(llava.model)
    assert torch.equal(again[0], text)
    assert not torch.equal(again[1], one)


def test_words_that_both_know_are_compared():
    a, b = torch.zeros(2, 5), torch.zeros(2, 4)
    a[:, 4] = 9
    (row, *_) = compare([a] * 3, [b] * 3)
    assert (row.logit_difference, row.token_agreement) == (0.0, 1.0)


def test_models_with_other_encoders_do_not_compare():
    with pytest.raises(InputError, match="one image is 3 positions for one, 2 for the other"):
        compare([torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3, 4)], [torch.zeros(2, 4)] * 3)


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


def answers(*levels):
    return [torch.full((1, 2), level) for level in levels]


def test_training_must_show_where_it_took_place():
    decoder, projector = ["decoder.model.x.weight"], ["projector.0.weight"]
    live = found = answers(1.0, 2.0, 3.0)
    assert check_differs(found, [], live, decoder, "x") == []
    assert len(check_differs(found, answers(0.9, 2.0, 3.0), live, decoder, "x")) == 3
    assert len(check_differs(found, answers(1.0, 1.9, 3.0), live, projector, "x")) == 3
    for base, trained in ((answers(1.0, 1.0, 1.0), decoder), (answers(0.0, 2.0, 0.0), projector)):
        with pytest.raises(InputError, match="as if it had not been trained"):
            check_differs(found, base, live, trained, "x")
    # Nearer to the base than to what was to be carried.
    with pytest.raises(InputError, match="as if it had not been trained"):
        check_differs(answers(0.1, 0.0, 0.0), answers(0.0, 0.0, 0.0), answers(1.0, 0.0, 0.0), decoder, "x")


def test_the_coarsest_dtype_counts(half_llava, llava):
    assert coarsest_dtype(half_llava.model) == torch.float16
    assert coarsest_dtype(llava.model.float()) == torch.float32

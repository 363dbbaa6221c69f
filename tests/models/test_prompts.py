"""Guards: answers that differ from those of transformers' `generate`, or depend on the other rows of a batch."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llava_pl.models import prompts
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.prompts import answer_greedily, read_prompts, score_answers
from llava_pl.models.shared_prefix import find_shared_prefix
from llava_pl.types import InputError

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
MPT_SIZES = {
    "vocab_size": 50, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, SIZES),
    "mistral_window": (MistralForCausalLM, MistralConfig, SIZES | {"sliding_window": 4}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, SIZES | {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, SIZES | {"head_dim": 16}),
    "mpt": (MptForCausalLM, MptConfig, MPT_SIZES),
}
START = [1, 7, 30, 22, 9, 41]
ROWS = [[*START, 5, 6], [*START, 8, 9, 3, 4, 12], [*START, 8, 13, 14], [3, 4, 5, 6, 7, 8, 9], [*START, 40], [8, 9]]
PICTURES = [0, 0, 0, -1, 0, -1]  # of the last row, the columns that are shared hold nothing but padding
END, NUM_NEW = 2, 7


@pytest.fixture(scope="module", params=FAMILIES)
def decoder(request) -> CausalDecoder:
    """A decoder whose answers are of different lengths."""
    model_class, config_class, settings = FAMILIES[request.param]
    torch.manual_seed(3)
    return CausalDecoder(model_class(config_class(**settings)).eval())


@pytest.fixture
def llama():
    torch.manual_seed(3)
    return CausalDecoder(LlamaForCausalLM(LlamaConfig(**SIZES)).eval())


def pad(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def read(decoder, rows=ROWS, pictures=None):
    ids, mask = pad(rows)
    shared = None if pictures is None else find_shared_prefix(rows, pictures)
    assert (shared is None) == (pictures is None)
    return read_prompts(decoder, decoder.embed(ids), mask, shared)


def generate(decoder, end_ids, rows=ROWS):
    """What transformers says, without its padding."""
    ids, mask = pad(rows)
    options = {"max_new_tokens": NUM_NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": end_ids or None}
    answers = decoder.generate(decoder.embed(ids), mask, **options).tolist()
    ends = [next((n + 1 for n, token in enumerate(answer) if token in end_ids), NUM_NEW) for answer in answers]
    return [answer[:end] for answer, end in zip(answers, ends, strict=True)]


@pytest.mark.parametrize("pictures", [None, PICTURES], ids=["apart", "shared"])
def test_answers_are_those_of_transformers(decoder, pictures):
    free = generate(decoder, [])
    assert answer_greedily(decoder, read(decoder, pictures=pictures), max_new_tokens=NUM_NEW, end_ids=()) == free
    # End marks that end the rows one after the other.
    ends = [free[0][1], free[1][3], free[3][0]]
    ended = answer_greedily(decoder, read(decoder, pictures=pictures), max_new_tokens=NUM_NEW, end_ids=ends)
    assert ended == generate(decoder, ends)
    assert len({len(answer) for answer in ended}) > 1


def test_neither_a_shared_start_nor_a_packed_row_changes_a_hidden_state(decoder, monkeypatch):
    """At most 2e-6 was seen, of values of about 1: the order of sums in other shapes. A shift by one gives 0.1."""
    packs = decoder.can_pack_prompts
    assert packs == (type(decoder.model) not in (MistralForCausalLM, MptForCausalLM))
    packed, packed_and_shared = read(decoder), read(decoder, pictures=PICTURES)
    monkeypatch.setattr(CausalDecoder, "can_pack_prompts", False)
    plain, shared = read(decoder), read(decoder, pictures=PICTURES)
    for found in (packed, packed_and_shared, shared):
        torch.testing.assert_close(found.hidden, plain.hidden, atol=1e-5, rtol=0)


def test_answers_do_not_depend_on_the_batch(decoder):
    together = answer_greedily(decoder, read(decoder), max_new_tokens=NUM_NEW, end_ids=())
    for row, answer in zip(ROWS, together, strict=True):
        assert answer_greedily(decoder, read(decoder, [row]), max_new_tokens=NUM_NEW, end_ids=()) == [answer]


def count_rows(decoder, monkeypatch):
    """The rows of each pass through a decoder; prompts of different lengths are read as one."""
    num_rows, extend = [], decoder.extend

    def watch(cache, inputs_embeds, *more):
        num_rows.append(len(inputs_embeds))
        return extend(cache, inputs_embeds, *more)

    monkeypatch.setattr(decoder, "extend", watch)
    return num_rows


def test_rows_are_packed_as_far_as_there_is_room(llama, monkeypatch):
    """Lengths are 8, 11, 9, 7, 7 and 2. At most 2e-6 was seen, as above."""
    whole, num_rows = read(llama), count_rows(llama, monkeypatch)
    answers = answer_greedily(llama, read(llama), max_new_tokens=NUM_NEW, end_ids=())
    num_rows.clear()
    for room, num_packs in ((1, 6), (10, 5), (20, 3)):
        monkeypatch.setattr(prompts, "PACK_LENGTH", room)
        parts = read(llama)
        assert num_rows == [1] * num_packs
        torch.testing.assert_close(parts.hidden, whole.hidden, atol=1e-5, rtol=0)
        for own, other in zip(parts.cache.layers, whole.cache.layers, strict=True):
            torch.testing.assert_close(own.keys, other.keys, atol=1e-5, rtol=0)
            torch.testing.assert_close(own.values, other.values, atol=1e-5, rtol=0)
        assert answer_greedily(llama, parts, max_new_tokens=NUM_NEW, end_ids=()) == answers
        num_rows.clear()
    monkeypatch.setattr(CausalDecoder, "is_divided", True)  # ranks have unequal lengths
    read(llama)
    assert num_rows == [1]


def test_rows_leave_once_half_of_them_have_ended(llama, monkeypatch):
    """Four of six go on, then three of six."""
    num_rows = count_rows(llama, monkeypatch)
    free = generate(llama, [])
    texts = [answer[:length] for answer, length in zip(free, (1, 3, 3, 2, 3, 1), strict=True)]
    ended = answer_greedily(llama, read(llama), max_new_tokens=5, end_ids=(), is_ended=lambda ids: ids in texts)
    assert ended == texts
    assert num_rows == [1, 6, 3]


def test_a_rank_that_is_done_goes_on_until_all_are(llama, monkeypatch):
    """As many passes as the rank with the longest answer, which tells that it goes on three times more."""
    free = generate(llama, [])
    others = iter([1, 1, 1, 0])
    monkeypatch.setattr(CausalDecoder, "is_divided", True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda number: number.add_(next(others)))
    num_rows = count_rows(llama, monkeypatch)
    ended = answer_greedily(llama, read(llama), max_new_tokens=9, end_ids={answer[0] for answer in free})
    assert ended == [answer[:1] for answer in free]
    assert num_rows == [1, 1, 1, 1]


def test_divided_models_share_nothing(llama, monkeypatch):
    assert llama.can_share
    monkeypatch.setattr(CausalDecoder, "is_divided", True)
    assert not llama.can_share


CHOICES = [[[5], [6, 7]], [[8, 9, 10], [11], [12]], [[3], [4]], [[20, 21]], [[3, 3], [3, 4]], [[7]]]


@pytest.mark.parametrize("pictures", [None, PICTURES], ids=["apart", "shared"])
def test_scores_are_those_of_a_pass_for_each_choice(decoder, pictures):
    """Sums of up to three values of about -5; at most 3e-6 was seen, and a token too many or too few changes units."""
    scores = score_answers(decoder, read(decoder, pictures=pictures), CHOICES)
    for row, choices, found in zip(ROWS, CHOICES, scores, strict=True):
        for choice, score in zip(choices, found, strict=True):
            ids = torch.tensor([row + choice])
            with torch.no_grad():
                hidden = decoder.hidden_states(decoder.embed(ids), None, None)
                likelihood = decoder.logits(hidden).log_softmax(-1)[0, len(row) - 1 : -1]
            expected = likelihood[range(len(choice)), choice].sum().item()
            assert score == pytest.approx(expected, abs=1e-4)


def test_single_tokens_take_no_further_pass_unless_ranks_must_agree(llama, monkeypatch):
    num_rows = count_rows(llama, monkeypatch)
    choices = [[[5], [6]]] * 6
    scores = score_answers(llama, read(llama), choices)
    assert num_rows == [1]
    monkeypatch.setattr(CausalDecoder, "is_divided", True)
    assert score_answers(llama, read(llama), choices) == scores
    assert num_rows == [1, 1, 12]


def test_a_prompt_beyond_the_table_of_positions_is_refused():
    decoder = CausalDecoder(MptForCausalLM(MptConfig(**MPT_SIZES | {"max_seq_len": 10})).eval())
    with pytest.raises(InputError, match=r"takes at most 10 positions, found 11; shorten the question, or lower"):
        read(decoder)


def test_answers_that_might_not_fit_are_refused_before_the_first_word():
    decoder = CausalDecoder(MptForCausalLM(MptConfig(**MPT_SIZES | {"max_seq_len": 13})).eval())
    assert [len(ids) for ids in answer_greedily(decoder, read(decoder), max_new_tokens=3, end_ids=())] == [3] * 6
    message = r"takes at most 13 positions, found 14; prompts have up to 11 of them: lower .*max_new_tokens from 4"
    with pytest.raises(InputError, match=message):
        answer_greedily(decoder, read(decoder), max_new_tokens=4, end_ids=())

"""Guards: a sample that counts twice or never, or a rank that waits for a batch which another one does not have."""

import pytest
import torch

from llava_pl.data.eval_loader import make_eval_loader
from llava_pl.data.question_dataset import QuestionDataset
from llava_pl.data.question_source import GivenQuestions
from llava_pl.types import IGNORE_INDEX, Question, Sample

COUNTS = [1, 2, 30, 4, 500, 6, 7, 80, 9, 10]
EVALUATED = {
    1: [[[1, 2, 30, 4], [500, 6, 7, 80], [9, 10]]],
    2: [[[1, 30, 500, 7], [9]], [[2, 4, 6, 80], [10]]],
}


def read(dataset, batch_size, num_replicas):
    """The batches of each rank."""
    options = {"batch_size": batch_size, "num_replicas": num_replicas, "num_workers": 0, "collate_fn": list}
    return [list(make_eval_loader(dataset, rank=rank, **options)) for rank in range(num_replicas)]


@pytest.mark.parametrize(("num_replicas", "batches"), EVALUATED.items())
def test_evaluation_reads_every_sample_once(num_replicas, batches):
    assert read(COUNTS, 4, num_replicas) == batches


def test_ranks_have_as_many_batches():
    # Batches of four would be 4 + 1 on one rank and 4 on the other.
    assert read(range(9), 4, 2) == [[[0, 2, 4], [6, 8]], [[1, 3, 5], [7]]]


def test_a_rank_with_a_sample_less_gets_one_that_counts_for_nothing():
    question = Question("q", "What?", ("a", "b"), 0, None, ("NAT",))
    ids = torch.tensor([1, 7, 8])
    samples = [
        Sample(str(number), ids + number, ids + number, torch.zeros(number, 3, 2, 2), question, skipped="line")
        for number in range(3)
    ]
    first, second = read(samples, 1, 2)
    assert [sample for [sample] in first] == [samples[0], samples[2]]
    [own], [again] = second
    assert own is samples[1]
    assert (again.id, again.question, again.skipped) == ("1", question, None)
    assert again.input_ids.tolist() == [2, 8, 9]
    assert again.labels.tolist() == [IGNORE_INDEX] * 3
    assert again.pixel_values.shape == (1, 3, 2, 2)


class Lengths(QuestionDataset):
    """Questions that are nothing but lengths."""

    def __init__(self, lengths):
        super().__init__(GivenQuestions(lengths), None)

    def __getitem__(self, index):
        return self.questions[index]

    def order(self, num_first=None):
        places = range(len(self))
        return sorted(places, key=lambda place: (place >= num_first, -self.questions[place]))


@pytest.mark.parametrize(
    ("num_replicas", "limit", "batches"),
    [
        (1, 1.0, [[[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]]),
        (2, 1.0, [[[9, 8, 7, 6], [1]], [[5, 4, 3, 2], [0]]]),
        # The first four or eight of the set are the first batch of all ranks.
        (1, 1, [[[7, 5, 3, 1], [9, 8, 6, 4], [2, 0]]]),
        (1, 0.4, [[[7, 5, 3, 1], [9, 8, 6, 4], [2, 0]]]),
        (2, 1, [[[9, 8, 7, 5], [6]], [[4, 3, 1, 0], [2]]]),
        (2, 0, [[[9, 8, 7, 6], [1]], [[5, 4, 3, 2], [0]]]),
    ],
)
def test_questions_come_by_length_within_what_is_asked(num_replicas, limit, batches):
    dataset = Lengths([3, 1, 7, 5, 9, 0, 8, 4, 2, 6])
    options = {"batch_size": 4, "num_replicas": num_replicas, "num_workers": 0, "collate_fn": list, "limit": limit}
    assert [list(make_eval_loader(dataset, rank=rank, **options)) for rank in range(num_replicas)] == batches


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_the_loader_tells_what_is_asked(num_replicas):
    asked = Lengths(range(3))
    options = {"batch_size": 1, "num_workers": 0, "collate_fn": list}
    assert make_eval_loader(asked, num_replicas=num_replicas, rank=0, **options).dataset.dataset is asked


@pytest.mark.parametrize(
    ("done", "limit", "batches"),
    [
        ({9, 8, 0}, 1.0, [[[7, 6, 5, 4], [3, 2, 1]]]),
        (set(range(10)), 1.0, [[[9]]]),
        # Of the first four, one is left; the others are not asked in its place.
        ({0, 1, 2}, 1, [[[1]]]),
    ],
)
def test_what_was_answered_is_left_out(done, limit, batches):
    lengths = [7, 5, 3, 1, 9, 8, 6, 4, 2, 0] if isinstance(limit, int) else list(range(10))
    options = {"batch_size": 4, "num_replicas": 1, "rank": 0, "num_workers": 0, "collate_fn": list}
    assert [list(make_eval_loader(Lengths(lengths), limit=limit, done=done, **options))] == batches

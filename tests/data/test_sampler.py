"""Guards: a resumed epoch goes through its samples in another order."""

from llava_pl.data.sampler import ResumableSampler


def order(epoch, start=0, rank=0, world=1):
    sampler = ResumableSampler(range(10), num_replicas=world, rank=rank, seed=3)
    sampler.set_epoch(epoch)
    sampler.start = start
    return list(sampler)


def test_order_is_a_function_of_seed_and_epoch():
    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(order(0)) == list(range(10))


def test_start_leaves_out_what_is_done():
    assert order(1, start=4) == order(1)[4:]
    assert order(1, start=4, rank=1, world=2) == order(1, rank=1, world=2)[4:]


def test_length_is_that_of_the_whole_epoch():
    sampler = ResumableSampler(range(10), num_replicas=1, rank=0)
    sampler.start = 4
    assert len(sampler) == 10

"""Guards: the notebooks begin with a model that is made anew each time, or that cannot be read."""

import pytest

from llava_pl import load_pretrained
from llava_pl.demo import small
from llava_pl.demo.small import make_small_parts, train_small


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Real but for their size."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_NUM_PICTURES", 32), ("_NUM_HELD_OUT", 8), ("_ENCODER_STEPS", 1), ("_DECODER_STEPS", 2)):
            patch.setattr(small, name, value)
        patch.setattr(small, "NUM_STEPS", 2)
        parts = make_small_parts(tmp_path_factory.mktemp("small"))
        train_small(parts)
    return parts


def test_all_paths_are_there(parts):
    paths = (parts.records, parts.image_folder, parts.scienceqa, parts.encoder, parts.decoder, parts.checkpoint)
    assert all(path.exists() and path.is_relative_to(parts.folder) for path in paths)


def test_checkpoint_is_read_like_any_other(parts):
    llava = load_pretrained(parts.checkpoint)
    assert llava.template == "vicuna_v1"
    assert llava.model.num_image_tokens == 9


def test_model_is_trained_once(parts):
    before = parts.checkpoint.stat().st_mtime_ns
    assert train_small(parts) == parts.checkpoint
    assert parts.checkpoint.stat().st_mtime_ns == before

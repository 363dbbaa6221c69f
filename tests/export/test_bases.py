"""Guards: a model that is put upon another base than it was trained upon, without a word."""

import pytest

from llava_pl.export.bases import check_base, describe_base, read_bases, write_bases
from llava_pl.export.pretrained import BaseModel
from llava_pl.export.weights import hash_weights
from llava_pl.types import InputError


def test_bases_come_back_from_plain_values(tiny_parts):
    bases = {"decoder": describe_base(str(tiny_parts / "decoder")), "vision_encoder": describe_base("nobody/nothing")}
    assert bases["decoder"].sha256 == hash_weights(tiny_parts / "decoder")
    told = write_bases(bases)
    assert told == {
        "decoder": {"name": "decoder", "sha256": hash_weights(tiny_parts / "decoder")},
        "vision_encoder": {"name": "nobody/nothing", "sha256": None},
    }
    assert read_bases({"bases": told}, "x.ckpt") == bases
    assert read_bases({}, "x.ckpt") is None


@pytest.mark.parametrize("told", [["decoder"], {"decoder": None}, {"decoder": {"name": "x"}}, "x"])
def test_other_forms_are_one_line(told):
    with pytest.raises(InputError, match=r"^x.ckpt: carried.bases: expected name and sha256 of each part, found "):
        read_bases({"bases": told}, "x.ckpt")


def test_another_base_is_refused_where_both_hashes_are_known():
    found = BaseModel("vicuna", "b" * 64, path="/models/vicuna")
    check_base("decoder", None, found, "x.ckpt")
    check_base("decoder", BaseModel("hub/vicuna", None), found, "x.ckpt")
    check_base("decoder", BaseModel("other-name", "b" * 64), found, "x.ckpt")
    with pytest.raises(InputError) as raised:
        check_base("decoder", BaseModel("vicuna-7b", "a" * 64), found, "x.ckpt")
    assert str(raised.value) == (
        "x.ckpt: wrong decoder: expected the weights of vicuna-7b that it was trained upon (sha256 aaaaaaaaaaaa), "
        "found /models/vicuna (bbbbbbbbbbbb); give those, in a run as model.decoder.path, else as --base"
    )

"""Guards: a model that is put upon another base than it was trained upon, without a word."""

import json
import shutil

import pytest

from llava_pl.export.bases import check_base, describe_base, hash_settings, read_bases, write_bases
from llava_pl.export.pretrained import BaseModel
from llava_pl.export.weights import hash_weights
from llava_pl.types import InputError


def test_bases_come_back_from_plain_values(tiny_parts):
    bases = {"decoder": describe_base(str(tiny_parts / "decoder")), "vision_encoder": describe_base("nobody/nothing")}
    assert bases["decoder"].sha256 == hash_weights(tiny_parts / "decoder")
    told = write_bases(bases)
    assert told == {
        "decoder": {
            "name": "decoder",
            "sha256": hash_weights(tiny_parts / "decoder"),
            "settings": hash_settings(tiny_parts / "decoder"),
        },
        "vision_encoder": {"name": "nobody/nothing", "sha256": None, "settings": {}},
    }
    assert read_bases({"bases": told}, "x.ckpt") == bases
    assert read_bases({}, "x.ckpt") is None


@pytest.mark.parametrize("told", [["decoder"], {"decoder": None}, {"decoder": {"name": "x"}}, "x"])
def test_other_forms_are_one_line(told):
    with pytest.raises(
        InputError, match=r"^x.ckpt: carried.bases: expected name, sha256 and settings of each part, found "
    ):
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


def test_other_settings_under_the_same_weights_are_another_base(tiny_parts, tmp_path):
    known = describe_base(tiny_parts / "decoder")
    shutil.copytree(tiny_parts / "decoder", tmp_path / "decoder")
    config = json.loads((tmp_path / "decoder" / "config.json").read_text())
    # Who wrote it, how it is laid out, and what stands beside it decide no answer.
    (tmp_path / "decoder" / "config.json").write_text(json.dumps({**config, "use_cache": False}, indent=7))
    (tmp_path / "decoder" / "generation_config.json").write_text("{}")
    assert describe_base(tmp_path / "decoder") == known
    (tmp_path / "decoder" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    found = describe_base(tmp_path / "decoder")
    assert found.sha256 == known.sha256
    with pytest.raises(InputError, match=r"wrong decoder: expected the config\.json of decoder that"):
        check_base("decoder", known, found, "x.ckpt")
    (tmp_path / "decoder" / "config.json").write_text(json.dumps(config))
    path = tmp_path / "decoder" / "tokenizer.json"
    path.write_text(path.read_text().replace('"a": ', '"\u00e4": '))
    with pytest.raises(InputError, match=r"wrong decoder: expected the tokenizer\.json of decoder that"):
        check_base("decoder", known, describe_base(tmp_path / "decoder"), "x.ckpt")
    path.unlink()  # weights without a tokenizer can be the same base
    check_base("decoder", known, describe_base(tmp_path / "decoder"), "x.ckpt")


def test_nothing_is_known_of_what_is_not_here():
    assert hash_settings("nobody/nothing") == {}

"""Guards: a folder whose name, not its files, decides what it is."""

import pytest
import torch

from llava_pl import load_pretrained
from llava_pl.export.carry import carry
from llava_pl.export.certificate import probe
from llava_pl.export.layouts import needs_base
from llava_pl.types import InputError


@pytest.mark.parametrize("layout", ["artifact", "hf", "llava"])
@pytest.mark.parametrize("name", ["x", "vicuna-lora-hf"])
def test_files_decide(llava, tmp_path, layout, name):
    carry(llava, tmp_path / "first", layout)
    (tmp_path / "first").rename(tmp_path / name)
    found = load_pretrained(tmp_path / name)
    assert found.origin.layout == layout
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(llava.model), strict=True))


def test_other_places_are_refused(tmp_path, tiny_parts):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_pretrained(tmp_path / "nowhere")
    for folder in (tmp_path, tiny_parts / "decoder", tiny_parts / "encoder"):
        with pytest.raises(InputError, match="expected a model folder of llava_pl, llava-hf or the original LLaVA"):
            load_pretrained(folder)


def test_a_folder_that_has_lost_its_settings_says_so(llava, tmp_path):
    carry(llava, tmp_path / "x", "artifact")
    (tmp_path / "x" / "config.json").unlink()
    with pytest.raises(InputError, match=r"x/manifest.json: file 'config.json' is missing; fetch it again"):
        load_pretrained(tmp_path / "x")


def test_which_folders_need_a_base(golden_path, tmp_path):
    assert needs_base(golden_path / "model" / "stage1-mlp2x")
    assert not needs_base(golden_path / "model" / "llava-mlp2x")
    assert not needs_base(tmp_path)
    assert not needs_base(tmp_path / "run.ckpt")

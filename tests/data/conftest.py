"""What tests of encoding share."""

import pytest

from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.sample_encoder import SampleEncoder


@pytest.fixture
def encoder(tiny_parts, tmp_path) -> SampleEncoder:
    return SampleEncoder(
        tokenizer=load_tokenizer(tiny_parts / "decoder"),
        image_transform=ImageTransform.from_pretrained(tiny_parts / "encoder"),
        image_folder=tmp_path,
        num_image_tokens=4,
        template="plain",
    )

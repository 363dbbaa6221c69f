"""The two pre-trained parts that LLaVA starts from, in small: an encoder that has seen, a decoder that has read.

Fourth step of the demo: the data folder comes in; a CLIP-shaped encoder and a LLaMA-shaped decoder with its tokenizer
go out, as ordinary transformers folders. Neither knows of the other: the encoder is trained on pictures without a word,
the decoder on text without a picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl.data.conversation import render_conversation
from llava_pl.demo.dataset import Conversation, read_conversations, read_pictures
from llava_pl.demo.shapes import CELL_PIXELS, PICTURE_PIXELS
from llava_pl.progress import show_progress
from llava_pl.types import IGNORE_INDEX, Segment, Turn

ENCODER_STEPS = 350
DECODER_STEPS = 300

_VERSION = 3  # raise it when the same arguments give other parts
_NUM_ENCODER_PICTURES = 8000
_ENCODER_BATCH_SIZE = 64
_DECODER_BATCH_SIZE = 16
_WIDTH = 128
_MAX_VOCABULARY = 1024
# The frame of every prompt, a word with its colon, or a lettered option is one token at most: prompts stay short.
_FRAME = (r"^A chat .*?questions\.", r"\nContext: N/A\nOptions:", r" The answer is(?= )")
_WORDS = "|".join((*_FRAME, r" ?\([A-E]\)", r" ?[\p{L}/-]+:?", r" ?\p{N}", r" ?[^\s\p{L}\p{N}]+", r"\s+"))


def make_parents(
    folder: Path,
    data: Path,
    *,
    seed: int = 0,
    encoder_steps: int = ENCODER_STEPS,
    decoder_steps: int = DECODER_STEPS,
) -> None:
    """Write ``encoder/`` and ``decoder/``, unless the same arguments have made them of the same data already.

    Args:
        folder: Where to write; made if needed.
        data: What `write_dataset` wrote.
        seed: Of both trainings.
        encoder_steps: Steps of the encoder's training.
        decoder_steps: Steps of the decoder's training.
    """
    manifest = folder / "manifest.json"
    arguments = {
        "version": _VERSION,
        "data": json.loads((data / "manifest.json").read_text()),
        "seed": seed,
        "encoder_steps": encoder_steps,
        "decoder_steps": decoder_steps,
    }
    if manifest.is_file() and json.loads(manifest.read_text()) == arguments:
        return
    manifest.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, presence = read_pictures(data, _NUM_ENCODER_PICTURES)
    train_encoder(folder / "encoder", pictures, presence, seed=seed, num_steps=encoder_steps)
    conversations = read_conversations(data)[: decoder_steps * _DECODER_BATCH_SIZE]
    texts = ["".join(segment.text for segment in _render(conversation)) for conversation in conversations]
    tokenizer = make_tokenizer(folder / "decoder", texts)
    train_decoder(folder / "decoder", conversations, tokenizer, seed=seed, num_steps=decoder_steps)
    # Last, so that a folder left half-made is made again.
    manifest.write_text(json.dumps(arguments))


def make_tokenizer(folder: Path, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts and save it; it has no unknown character, and decoding restores every text.

    Like LLaMA's it puts ``<s>`` in front and reads ``</s>`` as one token.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORDS), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.save_pretrained(folder)
    return fast


def train_encoder(
    folder: Path,
    pictures: NDArray[np.uint8],
    presence: NDArray[np.bool_],
    *,
    seed: int,
    num_steps: int = ENCODER_STEPS,
) -> CLIPVisionModel:
    """Train a CLIP vision model to tell what a picture holds, and save it with its image processor.

    Args:
        folder: Where to save.
        pictures: uint8 ``(N, H, W, 3)``.
        presence: bool ``(N, L)``: what each picture holds.
        seed: Of weights and order.
        num_steps: Steps of 64 pictures.

    Returns:
        The trained model; the head that was trained on its pooled output is thrown away.
    """
    side = PICTURE_PIXELS
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    # As the processor does, but in one go; the pictures have the right size already.
    scaled = (torch.from_numpy(pictures).float() / 255 - torch.tensor(processor.image_mean)) / torch.tensor(
        processor.image_std
    )
    pixel_values, targets = scaled.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(presence).float()
    config = CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=side,
        patch_size=CELL_PIXELS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPVisionModel(config)
        # What a picture holds can be told without knowing where: with the default, a thirtieth of a patch's own
        # embedding, training would leave the features with hardly a trace of their place.
        nn.init.normal_(model.embeddings.position_embedding.weight, std=0.4)
        head = nn.Linear(_WIDTH, targets.shape[1])

    def loss(rows: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(head(model(pixel_values[rows]).pooler_output), targets[rows])

    parameters = [*model.parameters(), *head.parameters()]
    _minimise(loss, parameters, len(pictures), num_steps, _ENCODER_BATCH_SIZE, seed, "Training the encoder")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def train_decoder(
    folder: Path,
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    num_steps: int = DECODER_STEPS,
) -> LlamaForCausalLM:
    """Train a LLaMA model to answer questions about text, and save it.

    Args:
        folder: Where to save, beside the tokenizer.
        conversations: Turns of LLaVA records without pictures; the answers are learned.
        tokenizer: A fast tokenizer.
        seed: Of weights and order.
        num_steps: Steps of 16 conversations.
    """
    input_ids, labels = _encode(conversations, tokenizer)
    lengths = input_ids.ne(tokenizer.pad_token_id).sum(dim=1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        # At this width the default, 0.02, makes attention nearly uniform, and it stays so for most of the training.
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # Equal at the start and free to part later: copying a word, which most answers are, is learned sooner.
        nn.init.normal_(model.model.embed_tokens.weight, std=0.3)
        model.lm_head.weight.data.copy_(model.model.embed_tokens.weight)

    def loss(rows: Tensor) -> Tensor:
        # No attention mask: what stands after the end of a row is seen by nothing that is learned.
        length = int(lengths[rows].max())
        targets = labels[rows, 1:length]
        hidden = model.model(input_ids[rows, :length], use_cache=False).last_hidden_state[:, :-1]
        is_learned = targets != IGNORE_INDEX
        return F.cross_entropy(model.lm_head(hidden[is_learned]), targets[is_learned])

    parameters = list(model.parameters())
    _minimise(loss, parameters, len(input_ids), num_steps, _DECODER_BATCH_SIZE, seed, "Training the decoder")
    model.save_pretrained(folder)
    return model


def _render(conversation: Conversation) -> list[Segment]:
    turns = [Turn("human" if turn["from"] == "human" else "gpt", turn["value"]) for turn in conversation]
    return render_conversation(turns, "vicuna_v1", has_images=False)


def _encode(conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Return padded ids and labels, both int64 ``(N, T)``.

    Not `encode_conversation`, which takes a record at a time: all at once is ten times faster.
    """
    rendered = [_render(conversation) for conversation in conversations]
    encoded = tokenizer(
        ["".join(segment.text for segment in segments) for segments in rendered],
        padding=True,
        return_offsets_mapping=True,
        return_tensors="np",
    )
    input_ids, starts = torch.from_numpy(encoded["input_ids"]), encoded["offset_mapping"][:, :, 0]
    is_learned = np.zeros(starts.shape, dtype=np.bool_)
    for row, segments in enumerate(rendered):
        ends = np.cumsum([len(segment.text) for segment in segments])
        for segment, end in zip(segments, ends, strict=True):
            if segment.kind == "answer":
                is_learned[row] |= (starts[row] >= end - len(segment.text)) & (starts[row] < end)
    is_learned &= encoded["attention_mask"].astype(np.bool_)
    return input_ids, input_ids.masked_fill(torch.from_numpy(~is_learned), IGNORE_INDEX)


def _minimise(
    loss: Callable[[Tensor], Tensor],
    parameters: Sequence[nn.Parameter],
    num_rows: int,
    num_steps: int,
    batch_size: int,
    seed: int,
    title: str,
) -> None:
    """Train with AdamW and a cosine schedule; the rows are shuffled once and taken in turn."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95))
    num_warmup = max(1, num_steps // 8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / num_warmup) * 0.5 * (1 + math.cos(math.pi * step / num_steps)),
    )
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    for step in show_progress(range(num_steps), title):
        total = loss(order[torch.arange(step * batch_size, (step + 1) * batch_size) % num_rows])
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()

"""Records to loaders: what the data modules of ``data/datamodule.py`` share.

In: the sources and questions that a data module names. Out: the batches of `fit`, `validate`, `test` and `predict`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from llava_pl.data.anyres import choose_tiling
from llava_pl.data.collate import collate
from llava_pl.data.dataset import RecordDataset
from llava_pl.data.entries import RunSource, check_sources, open_entries
from llava_pl.data.eval_loader import make_eval_loader
from llava_pl.data.feature_store import FeatureCaching, PictureFeatures
from llava_pl.data.load_encoder import load_encoder
from llava_pl.data.loader import StepLoader
from llava_pl.data.ordering import Grouping
from llava_pl.data.quarantine import Quarantine
from llava_pl.data.question_dataset import QuestionDataset
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.templates import TemplateName
from llava_pl.data.train_loader import make_train_loader
from llava_pl.data.training_data import GivenRecords, TrainingData
from llava_pl.types import BadRecord, InputError, OnTooLong, Record, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Stage = Literal["val", "test", "predict"]

RETRY_AFTER_SECONDS = (0.5, 2.0)
"""How long a run waits for a picture that cannot be read, before each further try."""


class ConversationDataModule(LightningDataModule):
    """What every data module here shares: one encoder, loaders for learning and for answering.

    A subclass names its `train_sources`, which `open_train_data` reads, and fills ``val_datasets`` in `setup`, from
    `val_sources` if it has some. One that has records of its own making fills ``train_records`` there instead.

    Args:
        tokenizer: Folder or hub name of the decoder's tokenizer.
        image_processor: Folder or hub name of the vision encoder, for its picture settings.
        num_image_tokens: P, the image tokens per picture, or per tile.
        image_folder: Where the pictures lie.
        template: How conversations are written.
        image_aspect: "pad" fills pictures to a square (LLaVA-1.5), "square" crops, "anyres" cuts into tiles (1.6).
        grid_pinpoints: With "anyres": [width, height] to bring pictures to; by default 1x2, 2x1, 2x2, 3x1, 1x3 tiles.
        image_start_end: Put start and end marks around image slots; a tokenizer that lacks them is given them.
        image_patch_token: Give the tokenizer <im_patch>, too, which the original can add and never writes.
        respect_exif: Turn photographs upright; false reproduces the original.
        legacy_tokenizer: For LLaMA's tokenizer: its `legacy` setting, by default that of its folder.
        max_length: The most positions of a training sample, image tokens included.
        on_too_long: A longer sample has text cut off its end ("truncate_text"; one whose image would be cut stops the
            run), is left out and counted ("drop"), or stops the run ("error").
        bad_records: A record that cannot be learned from stops the run ("error"), or is left out if `quarantine` names
            it ("quarantine"); in validation, too. So does, or is, named there or not, one whose picture cannot be read
            when its turn comes, after two more tries.
        quarantine: JSON file that `llava-pl data check --quarantine` wrote after it went through this data.
        cache_dir: Folder of what is read and counted once and mapped into memory from then on; by default
            `$LLAVA_PL_CACHE`, or `~/.cache/llava_pl`. What lies there may be deleted at any time between runs.
        cache_tokens: Keep the token ids of all records there, too, about five bytes for each token of text.
        feature_cache: Keep there what a frozen vision encoder makes of the pictures to train on, and encode none twice:
            where that spares a share of the run's work ("worthwhile"; elsewhere the run is refused), or "always".
        batch_size: Samples per device and micro batch in training.
        eval_batch_size: Samples per device and batch in validation; `batch_size` by default.
        num_workers: Processes that read and prepare data, per device.
        seed: Of the order of training samples, together with the epoch.
        grouping: Order of training samples: "none" shuffles; "balanced" deals the global batches of "none" so that
            devices wait and pad less; "modality_length" is the original's; "length" the same without regard to
            pictures.
        is_packed: Put the samples of a micro batch one after the other into a single row instead of padding them, dealt
            so that all micro batches have about the same number of tokens; `batch_size` is then the average. The
            samples of a global batch stay those of `grouping`, "none" and "balanced" being the same.
        token_budget: The most positions of a micro batch, image tokens and padding included: what fits into a device's
            memory. A run with a larger one in any epoch that its bounds name is refused before its first step.
    """

    def __init__(
        self,
        *,
        tokenizer: str,
        image_processor: str,
        num_image_tokens: int,
        image_folder: str | Path,
        template: TemplateName = "vicuna_v1",
        image_aspect: Literal["pad", "square", "anyres"] = "pad",
        grid_pinpoints: list[tuple[int, int]] | None = None,
        image_start_end: bool = False,
        image_patch_token: bool = False,
        respect_exif: bool = True,
        legacy_tokenizer: bool | None = None,
        max_length: int = 2048,
        on_too_long: OnTooLong = "truncate_text",
        bad_records: Literal["error", "quarantine"] = "error",
        quarantine: str | Path | None = None,
        cache_dir: str | Path | None = None,
        cache_tokens: bool = False,
        feature_cache: FeatureCaching = "none",
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        seed: int = 0,
        grouping: Grouping = "none",
        is_packed: bool = False,
        token_budget: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", 1 if eval_batch_size is None else eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("max_length", max_length, 1),
            ("token_budget", 1 if token_budget is None else token_budget, 1),
        ):
            if value < least:
                raise InputError(f"data.{name}: expected at least {least}, found {value}")
        if (bad_records == "quarantine") != (quarantine is not None):
            raise InputError(
                f"data.bad_records: found {bad_records} with data.quarantine {quarantine}; expected 'quarantine' with "
                "the file that `llava-pl data check --quarantine FILE` wrote, or 'error' without a file"
            )
        for name, word, words in (("grouping", grouping, Grouping), ("feature_cache", feature_cache, FeatureCaching)):
            if word not in get_args(words):
                raise InputError(f"data.{name}: expected one of {', '.join(get_args(words))}, found {word!r}")
        if is_packed and grouping not in ("none", "balanced"):
            raise InputError(f"data.is_packed: expected grouping none or balanced, found {grouping}; choose one")
        self.num_image_tokens = num_image_tokens
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers, self.seed = num_workers, seed
        self.grouping: Grouping = grouping
        self.is_packed, self.token_budget = is_packed, token_budget
        self.train_data: TrainingData | GivenRecords = GivenRecords((), self.make_encoder)
        self.val_datasets: list[Dataset[Sample]] = []
        self._load_encoder = partial(
            load_encoder,
            tokenizer=tokenizer,
            image_processor=image_processor,
            num_image_tokens=num_image_tokens,
            image_folder=Path(image_folder),
            template=template,
            image_aspect=image_aspect,
            image_start_end=image_start_end,
            image_patch_token=image_patch_token,
            respect_exif=respect_exif,
            legacy_tokenizer=legacy_tokenizer,
            max_length=max_length,
            on_too_long=on_too_long,
            tiling=choose_tiling(image_aspect, grid_pinpoints, image_processor, num_image_tokens),
        )
        self._bad_records, self._quarantine = bad_records, quarantine
        self.cache_dir, self._cache_tokens, self.feature_cache = cache_dir, cache_tokens, feature_cache
        self.bring_features: Callable[[], PictureFeatures] | None = None  # set by who owns the vision encoder
        self.encoder: SampleEncoder | None = None

    def make_encoder(self) -> SampleEncoder:
        """Return the encoder of samples, made when first asked for."""
        self.encoder = self.encoder or self._load_encoder()
        return self.encoder

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The decoder's tokenizer."""
        return self.make_encoder().tokenizer

    def train_sources(self) -> list[RunSource]:
        """Return where the records to train on come from."""
        return []

    def val_sources(self) -> list[RunSource]:
        """Return where the records of validation come from, if it goes through records."""
        return []

    def open_entries(self) -> dict[str, Sequence[Record | BadRecord]]:
        """Return for each source, those of validation last, every record or what is wrong with it.

        Raises:
            InputError: A source or its weight is one that `fit` refuses, too.
        """
        train = self.train_sources()
        given = {} if train else self.train_data.entries
        return {**given, **open_entries(train, self.val_sources(), self.cache_dir)}

    @cached_property
    def quarantine(self) -> Quarantine | None:
        """What the file of that name says, read once; None if there is none."""
        return None if self._quarantine is None else Quarantine.read(self._quarantine)

    def prepare_data(self) -> None:
        """Do what `setup` does once in one process: what it reads and counts, the others then find in the cache."""
        fn = self.trainer.state.fn if self.trainer else None
        self.setup("fit" if fn is None else fn.value)  # `str` of it is another word

    def open_train_data(self) -> None:
        """Read and count the sources, unless that is done, and say what they hold.

        Raises:
            InputError: A source is missing or broken, or the quarantine is of other data.
            RecordError: A record that cannot be learned from is not in the quarantine.
        """
        if isinstance(self.train_data, GivenRecords) and (sources := self.train_sources()):
            labels = check_sources(sources, self.val_sources())
            if self.quarantine is not None:
                self.quarantine.check_labels(labels)
            self.train_data = self.open_sources(sources)
            for line in self.train_data.describe():
                rank_zero_info(line)

    @property
    def train_records(self) -> Sequence[Record]:
        """The records of an epoch; a subclass may put its own here."""
        return self.train_data.records

    @train_records.setter
    def train_records(self, records: Sequence[Record]) -> None:
        self.train_data = GivenRecords(records, self.make_encoder)

    def open_sources(self, sources: Sequence[RunSource]) -> TrainingData:
        """Return what some sources hold, read and counted, without what the quarantine names."""
        return TrainingData(
            sources,
            self.make_encoder(),
            cache_dir=self.cache_dir,
            has_tokens=self._cache_tokens,
            num_workers=self.num_workers,
            quarantine=self.quarantine,
            seed=self.seed,
            say=rank_zero_info,
        )

    def count_train_batches(self, world_size: int) -> int:
        """Return the micro batches of an epoch per device, known without making a loader."""
        return ceil(ceil(len(self.train_records) / world_size) / self.batch_size)

    def make_dataset(self, data: TrainingData | GivenRecords) -> RecordDataset:
        """Return the samples of some records; of pictures that break on the way, ``bad_records`` decides."""
        return RecordDataset(
            data.records,
            self.make_encoder(),
            tokens=data.tokens,
            places=data.places,
            skips_broken=self._bad_records == "quarantine",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )

    def train_dataloader(self) -> StepLoader:
        """Return the loader of training batches, in an order that seed and epoch alone decide."""
        if not self.train_records:
            raise InputError("data: no records to train on; give the data module a training file")
        dataset = self.make_dataset(self.train_data)
        if self.bring_features is not None:
            dataset.encoder = replace(dataset.encoder, features=self.bring_features())
        return make_train_loader(
            dataset,
            self.train_data,
            batch_size=self.batch_size,
            seed=self.seed,
            grouping=self.grouping,
            is_packed=self.is_packed,
            token_budget=self.token_budget,
            num_workers=self.num_workers,
            trainer=self.trainer,
        )

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        """Return the loaders of `validate`, one for each dataset in ``val_datasets``."""
        return [self._eval_loader(dataset) for dataset in self.val_datasets]

    def _eval_loader(
        self, dataset: Dataset[Sample], stage: Stage = "val", done: Collection[int] = ()
    ) -> DataLoader[Sample]:
        return make_eval_loader(
            dataset,
            batch_size=self.eval_batch_size,
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            collate_fn=partial(
                collate,
                pad_token_id=self.tokenizer.pad_token_id,
                num_image_tokens=self.num_image_tokens,
                padding_side="left" if isinstance(dataset, QuestionDataset) else "right",
            ),
            limit=getattr(self.trainer, f"limit_{stage}_batches", 1.0),
            done=done,
            num_workers=self.num_workers,
        )

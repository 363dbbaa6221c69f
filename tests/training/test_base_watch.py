"""Guards: a run that waits for hashes before it has to, is lost for want of one, or goes on upon other weights."""

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest

from llava_pl.export.pretrained import BaseModel
from llava_pl.training import base_watch
from llava_pl.training.base_watch import BaseModels
from llava_pl.types import InputError

PATHS = {"vision_encoder": "/eye", "decoder": "/words"}
OTHER = {"decoder": BaseModel("words", "other")}


@pytest.fixture
def gate(monkeypatch):
    """Hashing begins when it is set; each model is hashed once."""
    event, asked = threading.Event(), []

    def describe(path):
        assert event.wait(timeout=60)
        asked.append(path)
        return BaseModel(path.strip("/"), f"hash of {path}", path=path)

    monkeypatch.setattr(base_watch, "describe_base", describe)
    event.asked = asked
    yield event
    event.set()


def test_nothing_waits_for_hashes_but_a_save(gate):
    models = BaseModels(PATHS)
    models.expect({"decoder": BaseModel("words", "hash of /words")})
    models.on_train_batch_end(None, None, None, None, 0)
    assert gate.asked == []
    threading.Timer(0.05, gate.set).start()
    found = models.describe()
    assert {part: base.sha256 for part, base in found.items()} == {
        "vision_encoder": "hash of /eye", "decoder": "hash of /words",
    }  # fmt: skip
    assert models.describe() == found
    assert gate.asked == ["/eye", "/words"]


def test_a_run_upon_other_weights_is_stopped_once_they_are_known(gate):
    models = BaseModels(PATHS)
    models.expect(OTHER)
    models.on_train_batch_end(None, None, None, None, 0)
    gate.set()
    models._hashed.result(timeout=60)
    for stop in (
        lambda: models.on_train_batch_end(None, None, None, None, 0),
        lambda: models.on_train_end(None, None),
        models.describe,
    ):
        with pytest.raises(InputError, match=r"^checkpoint: wrong decoder: expected the weights of words .* found /w"):
            stop()


@pytest.mark.parametrize("hook", ["on_validation_epoch_end", "on_test_epoch_end", "on_predict_epoch_end"])
def test_an_evaluation_waits_for_hashes_before_it_shows_a_score(gate, hook):
    models = BaseModels(PATHS)
    models.expect(OTHER)
    models.on_validation_epoch_end(SimpleNamespace(state=SimpleNamespace(fn="fit")), None)  # a run goes on
    assert gate.asked == []
    threading.Timer(0.05, gate.set).start()
    with pytest.raises(InputError, match=r"^checkpoint: wrong decoder"):
        getattr(models, hook)(SimpleNamespace(state=SimpleNamespace(fn="validate")), None)


def test_a_run_that_begins_compares_nothing(gate):
    models = BaseModels(PATHS)
    models.start()
    models.on_train_end(None, None)  # and waits for nothing
    assert gate.asked == []


def test_what_cannot_be_hashed_is_one_line_and_loses_nothing(monkeypatch):
    def describe(path):
        raise PermissionError(13, "not\nreadable", path)

    monkeypatch.setattr(base_watch, "describe_base", describe)
    models = BaseModels({"decoder": "/words"})
    with pytest.warns(UserWarning, match=r"model.decoder.path: /words: cannot be hashed, .*not.readable") as warned:
        models.expect(OTHER, waits=True)
    assert models.describe() == {"decoder": BaseModel("/words")}
    assert "\n" not in str(warned[0].message)


def test_a_copy_has_a_thread_of_its_own(gate):
    models = BaseModels(PATHS)
    models.start()
    gate.set()
    for again in (copy.deepcopy(models), pickle.loads(pickle.dumps(models))):
        assert again.describe() == models.describe()

"""Guards: a configuration that another one overwrites, or that a damaged one keeps from being kept."""

from types import SimpleNamespace

import pytest
from jsonargparse import Namespace

from llava_pl.run_config import SaveRunConfig, check_settings
from llava_pl.types import InputError


class Parser:
    """Writes the key `rate` alone, where jsonargparse writes all."""

    def dump(self, config, **_):
        return f"ckpt_path: {config.ckpt_path}\nrate: {config.rate}\n"

    def save(self, config, path, **_):
        with open(path, "w") as file:  # noqa: PTH123  a string, as jsonargparse takes it
            file.write(self.dump(config))


@pytest.fixture
def save(tmp_path):
    def call(rate, ckpt_path=None, stage="fit"):
        config = Namespace(rate=rate, ckpt_path=ckpt_path, run_dir=str(tmp_path))
        trainer = SimpleNamespace(default_root_dir=str(tmp_path), loggers=[])
        SaveRunConfig(Parser(), config).save_config(trainer, None, stage)
        return {path.name: path.read_bytes() for path in tmp_path.glob("config*.yaml")}

    return call


def test_a_continued_run_keeps_its_file_and_adds_others(save, tmp_path):
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    first = {"config.yaml": b"ckpt_path: None\nrate: 1\n"}
    assert save(1) == first
    assert save(1, last) == first
    both = {**first, "config-1.yaml": b"ckpt_path: None\nrate: 2\n"}
    assert save(2, last) == both
    assert save(2, last) == both


def test_an_evaluation_leaves_the_file_of_its_run(save, tmp_path):
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    first = save(1)
    both = save(2, last, "validate")
    assert both == {**first, "config-1.yaml": f"ckpt_path: {last}\nrate: 2\n".encode()}
    assert save(2, last, "validate") == both
    assert save(1, last, "test") == both


def test_a_run_that_starts_from_another_one_says_so(save):
    assert save(1, "other/checkpoints/last.ckpt") == {
        "config.yaml": b"ckpt_path: other/checkpoints/last.ckpt\nrate: 1\n"
    }


def test_a_file_that_cannot_be_read_stays(save, tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\0")
    with pytest.warns(UserWarning, match=r"config.yaml: cannot be read .it is no text.; it stays, the settings of"):
        found = save(1, str(tmp_path / "checkpoints" / "last.ckpt"))
    assert found == {"config.yaml": b"\xff\0", "config-1.yaml": b"ckpt_path: None\nrate: 1\n"}


@pytest.mark.parametrize("precision", ["transformer-engine", "transformer-engine-float16"])
def test_layers_of_another_package_are_no_precision(precision):
    with pytest.raises(InputError, match=rf"^trainer.precision: expected one of 32-true, .*, found {precision}$"):
        check_settings(Namespace(trainer=Namespace(precision=precision)))


@pytest.mark.parametrize(
    "strategy",
    ["fsdp", "fsdp_cpu_offload", Namespace(class_path="lightning.pytorch.strategies.FSDPStrategy")],
)
def test_the_older_fsdp_is_refused(strategy):
    config = Namespace(trainer=Namespace(precision="32-true", strategy=strategy))
    with pytest.raises(InputError, match=r"^trainer.strategy: found .*, Lightning's FSDP1, which cannot clip"):
        check_settings(config)
    config.trainer.strategy = Namespace(class_path="llava_pl.training.strategies.FSDP2Strategy")
    check_settings(config)

"""Guards: a warning that means something is lost among others, or with them."""

import logging
import warnings

from llava_pl.training.noise import quiet


def test_lightning_is_quiet_for_a_while(caplog):
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with quiet(), warnings.catch_warnings(record=True) as caught:
        log.info("GPU available: False")
        warnings.warn("The 'train_dataloader' does not have many workers which may be", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert not caplog.records
    assert [str(warning.message) for warning in caught] == ["something else"]
    assert log.level == level

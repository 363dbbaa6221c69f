"""Guards: a warning that means something is lost among others, or with them."""

import logging
import warnings

import llava_pl
from llava_pl.training.noise import plain_warnings, quiet


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


def test_a_warning_of_this_package_is_a_line_of_the_command():
    usual = warnings.formatwarning
    with plain_warnings():
        for place in (llava_pl.__file__, "llava-pl"):
            assert warnings.formatwarning(UserWarning("full"), UserWarning, place, 7) == "llava-pl: warning: full\n"
        place = warnings.formatwarning("zero", RuntimeWarning, llava_pl.__file__, 7, "")
        assert place == f"{llava_pl.__file__}:7: RuntimeWarning: zero\n"
        assert warnings.formatwarning("full", UserWarning, "theirs.py", 7, "") == "theirs.py:7: UserWarning: full\n"
    assert warnings.formatwarning is usual

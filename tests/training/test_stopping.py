"""Guards: a signal that is lost, or one that ends a run before it is saved."""

import signal
from types import SimpleNamespace

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from llava_pl.training.stopping import STOP_SIGNALS, StopRequest, leave_queue_to_job


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def trainer(*, received_sigterm=False, rank=0):
    connector = SimpleNamespace(received_sigterm=received_sigterm)
    return SimpleNamespace(
        received_sigterm=received_sigterm, _signal_connector=connector, is_global_zero=rank == 0, global_step=4
    )


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_and_the_first_one_counts(number, capsys):
    request = StopRequest("GO")
    request.listen(trainer())
    assert not request.is_made
    signal.raise_signal(number)
    for other in STOP_SIGNALS:
        signal.raise_signal(other)
    assert request.is_made
    with pytest.raises(SystemExit) as stop:
        request.obey(trainer())
    assert stop.value.code == 128 + number
    name = signal.Signals(number).name
    assert capsys.readouterr().err == (
        f"llava-pl: stopped by {name} after step 4, which is saved\nllava-pl: resume with: GO\n"
    )


def test_a_signal_that_lightning_got_first_is_taken_over():
    request, busy = StopRequest(""), trainer(received_sigterm=True)
    request.listen(busy)
    assert request.is_made
    assert busy._signal_connector.received_sigterm is False


def test_other_ranks_are_quiet(capsys):
    with pytest.raises(SystemExit) as stop:
        StopRequest("GO").obey(trainer(rank=1))
    assert stop.value.code == 143
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("environment", [SLURMEnvironment(), LightningEnvironment()])
def test_lightning_queues_no_job_again(environment):
    leave_queue_to_job(SimpleNamespace(_accelerator_connector=SimpleNamespace(cluster_environment=environment)))
    assert getattr(environment, "auto_requeue", False) is False

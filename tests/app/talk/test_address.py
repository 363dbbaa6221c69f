"""Guards the address of a page or server: a port that is found taken after minutes of reading weights."""

import socket

import pytest

from llava_pl.app.talk.address import find_port, listens, warn_of_others
from llava_pl.types import InputError

HERE = "127.0.0.1"


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind((HERE, 0))
        server.listen()
        yield server.getsockname()[1]


def test_ports(taken):
    assert find_port(HERE, 0, []) > 1023
    with pytest.raises(
        InputError, match=rf"--port {taken}: cannot be served \(Address already in use\); choose another"
    ):
        find_port(HERE, taken, [])
    free = find_port(HERE, 0, [])
    with pytest.raises(InputError, match="is free; name another"):
        find_port(HERE, None, [taken])
    assert find_port(HERE, None, [taken, free]) == free


@pytest.mark.parametrize(
    ("host", "port"),
    [("203.0.113.7", None), ("no.such.host.invalid", 7861), (HERE, 70000), ("a..b", 0), ("a\0b", 0), ("[::1]", 0)],
)
def test_addresses_that_are_not_of_this_machine(host, port):
    with pytest.raises(InputError, match="cannot be served"):
        find_port(host, port, [7860, 7861])


def test_listens(taken):
    assert listens(HERE, taken)
    assert not listens(HERE, find_port(HERE, 0, []))


def test_nothing_is_no_address():
    with pytest.raises(InputError, match="--host: expected an address of this machine, found nothing; leave it out"):
        find_port("", 0, [])


def test_others_are_warned_of(capsys):
    for host in (HERE, "localhost", "::1"):
        warn_of_others(host)
    assert capsys.readouterr().err == ""
    warn_of_others("0.0.0.0")
    assert "whoever reaches this address can ask the model" in capsys.readouterr().err

"""Where a page or a server can be reached."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from errno import EADDRINUSE

from llava_pl.types import InputError

HOST = "127.0.0.1"


def add_address_options(parser: argparse.ArgumentParser, ports: Sequence[int]) -> None:
    """Add the options of who can reach a server, and where.

    Args:
        parser: To add to.
        ports: Of which the first that is free is taken where none is named.
    """
    parser.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"who can reach it ({HOST}: this machine)")
    parser.add_argument("--port", type=int, metavar="N", help=f"where (the first free one from {ports[0]} on)")


def find_port(host: str, port: int | None, ports: Sequence[int]) -> int:
    """Return the port that is asked for, or the first free one of some.

    Raises:
        InputError: It is taken, or there is no such address on this machine.
    """
    if not host:  # to sockets it means all addresses
        raise InputError(f"--host: expected an address of this machine, found nothing; leave it out for {HOST}")
    for number in ports if port is None else [port]:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, number))
                return int(probe.getsockname()[1])
        except PermissionError as error:
            raise InputError(f"--port {number}: only an administrator may; choose one above 1023") from error
        except (OSError, OverflowError, TypeError) as error:  # the last of what can be no name
            is_taken = isinstance(error, OSError) and error.errno == EADDRINUSE
            if port is not None or not is_taken:
                what, reason = f"--host {host} --port {number}", getattr(error, "strerror", None) or error
                raise InputError(f"{what}: cannot be served ({reason}); choose another --port or --host") from error
    raise InputError(f"--port: none of {ports[0]} to {ports[-1]} is free; name another")


def in_url(host: str) -> str:
    """Return an address as it stands in a URL.

    >>> in_url("::1")
    '[::1]'
    """
    return f"[{host}]" if ":" in host else host


def listens(host: str, port: int) -> bool:
    """Return whether a server listens at an address."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def warn_of_others(host: str) -> None:
    """Say it aloud where other machines can reach a server."""
    if host not in (HOST, "localhost", "::1"):
        sys.stderr.write(f"llava-pl: --host {host}: whoever reaches this address can ask the model\n")

"""Closes the network of a Python process and of those that it starts: put its folder in front of `PYTHONPATH`.

Whoever is asked for by name or address, but for this machine, is written into `$CLOSED_NETWORK_LOG` and cannot be
reached.
"""

import os
import socket
import sys
from pathlib import Path

HERE = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None, socket.gethostname()}


def _refuse(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE:
        with Path(os.environ["CLOSED_NETWORK_LOG"]).open("a") as file:
            file.write(f"{event} {host} by {' '.join(sys.orig_argv[1:6])}\n")
        raise OSError(f"the network is closed to {host}")


sys.addaudithook(_refuse)

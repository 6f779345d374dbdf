"""Ports of tests and trials: no two processes are given one, nor one that its owner uses again."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.ports import free_ports

# All of them try the same ports first, and only the locks keep them apart.
GIVE = """
import random
random.SystemRandom = lambda: random.Random(1)
from bytewax_redis_state.chaos.network.ports import free_ports
print(*free_ports(50), flush=True)
input()
"""


def test_no_port_is_given_to_two_processes_at_once():
    """They ask for few, since the other processes of a whole suite have most of the ports."""
    command = [sys.executable, "-c", GIVE]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    given = [set(map(int, process.stdout.readline().split())) for process in processes]
    given.append(set(free_ports(50)))
    for process in processes:
        process.communicate("\n")
    assert [len(ports) for ports in given] == [50] * 5
    assert len(set().union(*given)) == 250


def test_a_port_is_not_given_again_soon_and_not_while_somebody_listens():
    (port,) = free_ports(1)
    before = free_ports(200)
    assert not {port, *before} & set(free_ports(200))
    for listened in (port, port + 10_000):
        with socket.create_server(("127.0.0.1", listened)):
            later = [found for _ in range(9) for found in free_ports(100)]
            assert port not in later
    assert port in [found for _ in range(9) for found in free_ports(100)]

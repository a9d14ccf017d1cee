"""A network that leads nowhere, for a cluster's tasks on this machine, and that counts attempts to leave it.

Nothing but a loopback interface is in it, and a proxy on that, to which whoever heeds `HTTPS_PROXY` turns:
it counts, and refuses. The kernel counts those who do not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What a batch script calls for Python. Beside its task it asks SLURM, which is outside.
STARTER = """#!{python} -IS
import json, os, socket, sys
if "submitit.core._submit" not in sys.argv:
    os.execv("{python}", ["{python}", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect("{place}")
    task = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(asking, [len(task).to_bytes(4, "big")], [0, 1, 2])
    asking.sendall(task)
    sys.exit(asking.recv(1)[0])
"""
# Counters of the kernel's tables snmp and snmp6: connections, datagrams, and packets without a route
COUNTED = ("TcpActiveOpens", "UdpOutDatagrams", "Udp6OutDatagrams", "IpOutNoRoutes", "Ip6OutNoRoutes")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class CutOff:
    """python: what starts Python, in there when it is for a task. environment: for the jobs.

    enter: what a command begins with to run in there; empty where this user may have no network of their
    own: then there is the proxy alone.
    """

    python: Path
    environment: Mapping[str, str]
    enter: tuple[str, ...]
    pid: int
    asked: Path

    def tried(self) -> tuple[list[str], Counter[str]]:
        """What came to the proxy, a line for each request; what the kernel counted."""
        return self.asked.read_text().splitlines(), self._counted() if self.enter else Counter()

    def _counted(self) -> Counter[str]:
        tables = Path(f"/proc/{self.pid}/net")
        found = dict(line.split() for line in (tables / "snmp6").read_text().splitlines())
        lines = (tables / "snmp").read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            kind, *columns = names.split()
            labels = (kind.rstrip(":") + column for column in columns)
            found |= dict(zip(labels, values.split()[1:], strict=True))
        return +Counter({name: int(found[name]) for name in COUNTED})


@contextlib.contextmanager
def cut_off(*, together: int, **environment: str) -> Iterator[CutOff]:
    """Such a network, for as long as the block runs. together: so many tasks begin at the same moment, when
    all of them are there. environment: for the jobs, too.
    """
    own, enter = _own_network()
    folder = Path(tempfile.mkdtemp(prefix="calsweep-cut-off-"))  # a socket's path may not be long
    place, asked = folder / "socket", folder / "asked"
    asked.touch()
    program = [sys.executable, "-I", str(Path(__file__).with_name("forking.py"))]
    # what libraries read when they are imported
    variables = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*own, *program, str(place), str(asked), str(together), *(["alone"] if own else [])],
        env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        python = folder / "python"
        python.write_text(STARTER.format(python=sys.executable, place=place))
        python.chmod(0o755)
        proxies = {**dict.fromkeys(PROXIES, address), "NO_PROXY": "", "no_proxy": ""}
        entering = tuple(word.format(pid=process.pid) for word in enter)
        yield CutOff(python, {**environment, **proxies}, entering, process.pid, asked)
    finally:
        process.kill()  # and its forks die with it
        process.communicate()
        shutil.rmtree(folder)


def _own_network() -> tuple[list[str], list[str]]:
    """How to start a program in a network of its own, and others in the same; empty where that is refused."""
    own, enter = ["unshare", "--net"], ["nsenter", "--net=/proc/{pid}/ns/net"]
    if os.geteuid() != 0:
        own = ["unshare", "--map-root-user", "--net"]
        enter = ["nsenter", "--target={pid}", "--user", "--net", "--preserve-credentials"]
    refused = subprocess.run([*own, "true"], stderr=subprocess.DEVNULL).returncode != 0
    return ([], []) if refused else (own, enter)

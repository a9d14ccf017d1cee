"""A program: Python that has imported what jobs import, in a network that leads nowhere. It forks for tasks.

Two cores take 71 tasks five minutes to import torch in each, and 23 GiB to hold it. A fork of this process
has it already, and shares it. Nothing of the project is imported here: each task takes its code's snapshot.

    python -I forking.py SOCKET ASKED TOGETHER [alone]

SOCKET: where tests/slurm/cut_off.py's starter asks for a fork. ASKED: gets a line for each request that comes
to the proxy on loopback, whose port is printed. TOGETHER: so many tasks wait for each other before the first
begins. alone: the network is our own. It ends with its stdin.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import json
import os
import runpy
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from select import select
from typing import NoReturn

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
PR_SET_PDEATHSIG = 1
POLL_S = 0.05


def main(place: str, asked: Path, together: int, is_alone: bool) -> None:
    if is_alone:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:  # a new loopback is down
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    import_what_jobs_import()
    tasks, proxy = socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))
    tasks.bind(place)
    tasks.listen(128)
    print(proxy.getsockname()[1], flush=True)
    waiting: list[socket.socket] = []
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select([tasks, proxy, sys.stdin], [], [], POLL_S)
        if sys.stdin in ready:  # nothing writes to it: this is its end
            return
        if proxy in ready:
            with proxy.accept()[0] as connection, asked.open("ab") as file:
                file.write(connection.recv(4096).split(b"\r\n")[0] + b"\n")
        if tasks in ready:
            waiting.append(tasks.accept()[0])
        if len(waiting) >= together:
            together, (wait, go) = 1, os.pipe()
            for connection in waiting:
                if not (child := os.fork()):
                    os.close(go)
                    # until the other end is closed, or the first would end before the last begins
                    os.read(wait, 1)
                    run_task(connection)
                children[child] = connection
            os.close(go)
            os.close(wait)
            waiting.clear()
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with children.pop(ended[0]) as connection:
                code = os.waitstatus_to_exitcode(ended[1])
                connection.sendall(bytes([code if code >= 0 else 128 - code]))


def import_what_jobs_import() -> None:
    import pandas  # type: ignore[import-untyped]  # noqa: F401  # by pyarrow, as soon as it makes a table
    import pyarrow.parquet  # noqa: F401
    import submitit.core.submission  # noqa: F401
    import torch  # noqa: F401
    import wandb.sdk.launch.inputs.internal  # noqa: F401  # by each `wandb.init`
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    gc.collect()
    gc.freeze()  # a collection would write to every page, and end the sharing


def run_task(connection: socket.socket) -> NoReturn:
    """Run what the starter was called for, with its arguments, folder, environment and output."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(5)  # 71 of them, beside other tests with time limits
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection, connection.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(size, "big")))
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder, *environment["PYTHONPATH"].split(":")]
    assert arguments[:2] == ["-u", "-m"]
    sys.argv = arguments[2:]
    code = 0
    try:
        runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an interpreter that ends takes every object apart, and so copies every page


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["alone"])

"""The process of the private server: it ends with this process, however this process ends."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from dibs.store.local.datadir import StoreUnavailable

# The wheel's server uses glibc's malloc, which caches 7 freed blocks of each size; a script frees
# hundreds at once. With 100, scripts take 7 % less time, a strict store grants 7 % more claims a
# second, and the server uses 4 MB more (docs/performance.md). With 400, a script needs another 5 %
# fewer instructions. Other C libraries ignore this variable.
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=400"}

# Runs in the forked process before it becomes the server. On Linux the kernel ends that process
# when the thread that forked it ends. Elsewhere a watcher, a child of the server, waits until this
# process's end of a pipe closes; nothing is ever written to the pipe. Both use SIGKILL, because
# every acknowledged write is on disk, and a stopped or busy store does not act on SIGTERM.
SHIM = """
import os, signal, sys
keeper, lifeline, lock = map(int, sys.argv[1:4])
tied = False
if sys.platform == "linux":
    try:
        import ctypes
        tied = ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) == 0  # PR_SET_PDEATHSIG
    except (ImportError, OSError):
        pass
server = os.getpid()
if not tied and os.fork() == 0:
    os.close(lock)
    os.read(lifeline, 1)
    if os.getppid() == server:
        os.kill(server, signal.SIGKILL)
    os._exit(0)
os.close(lifeline)
if os.getppid() != keeper:
    sys.exit("the process that started this store has already ended")
os.execv(sys.argv[4], sys.argv[4:])
"""


def launch(
    command: list[str],
    log: Path,
    lock: int,
    held: ExitStack,
    env: Mapping[str, str],
    tend: Callable[[], float],
) -> "subprocess.Popen[bytes]":
    lifeline, keeper_end = os.pipe()
    keeper = held.enter_context(os.fdopen(keeper_end, "wb"))
    os.register_at_fork(after_in_child=keeper.close)
    arguments = [str(number) for number in (os.getpid(), lifeline, lock)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIBS_")}
    started: Future[subprocess.Popen[bytes]] = Future()

    def fork_and_stay() -> None:
        # The kernel ends the server with the thread that forked it, so this thread has to stay.
        try:
            output_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(output_fd, "ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", SHIM, *arguments, *command],
                    cwd=log.parent,
                    env={**MALLOC, **inherited, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lifeline, lock),
                    start_new_session=True,  # Ctrl-C must not end the store before the last reply
                    umask=0o077,
                )
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            started.set_exception(error)
            return
        finally:
            os.close(lifeline)
        started.set_result(process)
        while process.poll() is None:
            time.sleep(tend())

    threading.Thread(target=fork_and_stay, name="dibs-store", daemon=True).start()
    try:
        return started.result()
    except OSError as error:
        raise StoreUnavailable(f"dibs cannot start {command[0]}: {error.strerror}.") from None


def end(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

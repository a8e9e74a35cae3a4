"""`python -I -S exec_wrapper.py PARENT COMMAND ...`: run the command, then kill its descendants.

On Linux this process is the subreaper of the command, so that all processes of the command stay its
descendants, also in sessions of their own. Every descendant gets SIGKILL when the command exits,
when the server sends END, or when the server ends. The exit code is the command's, above 128 for a
signal. On other systems this process becomes the command, and the next start of the server ends
the processes that are left.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# As a shell exits for a command that is absent. A command may exit so too, but without this text.
NOT_STARTED = 127
NOT_STARTED_WORDS = "cannot start "
# The variables with the owner, in the environment of this process and in that of the command.
WRAPPER_OWNER = "MODELSERVICE_WRAPPER_OF"
CHILD_OWNER = "MODELSERVICE_CHILD_OF"
END = signal.SIGUSR1

_HEARD = {END, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main(parent: int, command: list[str]) -> None:
    """Run the command. Never returns."""
    if sys.platform != "linux":
        _become(command)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, END)
    # A parent that ended before the line above sends no signal.
    if os.getppid() != parent:
        sys.exit("the server that started this process has ended")
    own = os.getpid()
    child = os.fork()
    if not child:
        # For the case that this process is killed.
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != own:
            os._exit(NOT_STARTED)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        _become(command)
    code = _exit_code(child)
    _end_descendants()
    os._exit(code)


def ask_to_end(wrapper: int) -> None:
    """Ask a wrapper, also a stopped one, to kill its descendants and end."""
    try:
        os.kill(wrapper, END)
        os.kill(wrapper, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass


def _become(command: list[str]) -> None:
    os.environ[CHILD_OWNER] = os.environ.pop(WRAPPER_OWNER, "")
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as e:
        print(f"{NOT_STARTED_WORDS}{command[0]}: {e.strerror}", file=sys.stderr, flush=True)
        os._exit(NOT_STARTED)


def _exit_code(child: int) -> int:
    """Reap processes until the command exits or END comes. Return the exit code."""
    while True:
        if signal.sigwait(_HEARD) is END:
            return 128 + signal.SIGKILL
        while (code := _reaped(child)) is not None:
            if code >= 0:
                return code


def _reaped(child: int) -> int | None:
    """Reap one process. Return the command's exit code, -1 for another process, None for none."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    if not pid:
        return None
    if pid != child:
        return -1
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_descendants() -> None:
    """Kill the children until there are none: the orphans of killed children become children."""
    while True:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:
                # It runs as another user. The server kills this wrapper if that takes too long.
                time.sleep(0.1)
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _children() -> list[int]:
    own = os.getpid()
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]  # noqa: PTH208
    return [pid for pid in pids if _parent(pid) == own]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            # The fields follow the name, which may have spaces and parentheses.
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

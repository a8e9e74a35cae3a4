"""`python -I -S exec_wrapper.py PARENT COMMAND ...`: run the command, and leave nothing of it.

On Linux this process is the subreaper of the command: whatever the command starts stays its
descendant, also in a session and environment of its own. Once the command exits, the server asks
for it by END, or the server ends, every descendant gets SIGKILL; the exit code is the command's,
above 128 for a signal. Elsewhere it becomes the command, and the next start of the server ends
what is left.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# As a shell does where there is no such command; a command may end so, too, but does not say this.
NOT_STARTED = 127
NOT_STARTED_WORDS = "cannot start "
# Whose it is: in the environment of this process, and in that of the command.
WRAPPER_MARKER = "MODELSERVICE_WRAPPER_OF"
MARKER = "MODELSERVICE_CHILD_OF"
END = signal.SIGUSR1

_HEARD = {END, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main(parent: int, command: list[str]) -> None:
    """Never returns."""
    if sys.platform != "linux":
        _become(command)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, END)
    # A parent that was gone before the line above sends no signal any more.
    if os.getppid() != parent:
        sys.exit("the server that started this process has ended")
    own = os.getpid()
    child = os.fork()
    if not child:
        # Where this process itself is killed.
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != own:
            os._exit(NOT_STARTED)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        _become(command)
    code = _exit_code(child)
    _end_descendants()
    os._exit(code)


def ask_to_end(wrapper: int) -> None:
    """Have a wrapper, also a stopped one, kill its descendants and end."""
    try:
        os.kill(wrapper, END)
        os.kill(wrapper, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass


def _become(command: list[str]) -> None:
    os.environ[MARKER] = os.environ.pop(WRAPPER_MARKER, "")
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as e:
        print(f"{NOT_STARTED_WORDS}{command[0]}: {e.strerror}", file=sys.stderr, flush=True)
        os._exit(NOT_STARTED)


def _exit_code(child: int) -> int:
    """Reap until the command exits or END comes; the exit code."""
    while True:
        if signal.sigwait(_HEARD) is END:
            return 128 + signal.SIGKILL
        while (code := _reaped(child)) is not None:
            if code >= 0:
                return code


def _reaped(child: int) -> int | None:
    """Reap one that has ended: the command's exit code, -1 for another; None: there is none."""
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
    """Kill the children until there are none: the orphans of those that end become children."""
    while True:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:
                # It has taken another user's rights; the server waits no longer than it must.
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
            # After the name, which may have spaces and parentheses.
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

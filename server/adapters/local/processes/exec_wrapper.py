"""`python -I -S exec_wrapper.py PARENT COMMAND ...`: become the command, and die with the parent.

On Linux the kernel sends SIGKILL when the thread that started this process ends; elsewhere the next
start of the server ends what is left.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
# As a shell does where there is no such command; a command may end so, too, but does not say this.
NOT_STARTED = 127
NOT_STARTED_WORDS = "cannot start "


def main(parent: int, command: list[str]) -> None:
    """Never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A parent that was gone before the line above sends no signal any more.
    if os.getppid() != parent:
        sys.exit("the server that started this process has ended")
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as e:
        print(f"{NOT_STARTED_WORDS}{command[0]}: {e.strerror}", file=sys.stderr)
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

"""Labs side by side: which of pytest-xdist's workers runs which tests."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# Whose labs take long to boot, or look at the whole machine: all tests of each on one worker.
TOGETHER = ("tests/cluster/knative/", "tests/cluster/releases/", "tests/node/")


class LabScheduling(LoadScopeScheduling):
    """Gives a worker all tests of one of these folders, or one file of the others: a worker has one
    lab for all the files that it runs. The largest begin."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return next(filter(file.startswith, TOGETHER), file)

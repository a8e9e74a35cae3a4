"""How long a problem that may pass by itself is tolerated, after the cluster first shows it."""

from __future__ import annotations

from datetime import timedelta

AT_ONCE = timedelta(0)
VOLUME = timedelta(seconds=10)
ADMISSION = timedelta(seconds=10)
UNSCHEDULABLE = timedelta(seconds=60)

# A container counts as stable once it has run for so long since its last exit.
STABLE = timedelta(seconds=60)
# An exit after a run of this length resets the exit count, as the kubelet does.
RECOVERED = timedelta(minutes=10)
# A container may run unready for so long before that is reported.
UNANSWERING = timedelta(seconds=60)
# The log of a container that others wait for may stay unchanged for so long.
SILENT = timedelta(minutes=3)

# An error may be about the write before for so long; after that it is about this one.
STALE_ERROR = timedelta(seconds=30)
# KServe may fail to reconcile for so long before that is reported, and before it fails the rollout.
RECONCILE_ERROR_REPORTED = timedelta(seconds=2)
RECONCILE_ERROR = timedelta(seconds=5)
# A Knative Revision with ready pods may wait for so long to be activated.
ACTIVATION = timedelta(seconds=30)
# An object that is in the way may be one of an earlier life of the service, which is being deleted:
# after a stop and a start in Knative mode, or a deletion and a Deploy. Kubernetes' garbage
# collector sends 20 requests a second, and Knative looks again in intervals that double.
LEFTOVER = timedelta(seconds=60)
# The condition Stopped may be about an earlier stop for so long: KServe acts on a start in between.
STOP_CURRENT = timedelta(seconds=5)

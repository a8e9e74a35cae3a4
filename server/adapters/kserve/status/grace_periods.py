"""How long what may pass by itself is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class GracePeriods:
    """Each is counted from the moment at which the cluster first showed it.

    `stable`: how long a container must have stayed up since its last exit to be believed.
    `recovered`: an exit after a run of this length starts a new count, as the kubelet's does.
    `unanswering`: how long a container may run unready before that is named. `refusal_in_doubt`:
    how long a refusal may stand that might still be about the write before. `silent`: how long the
    log of a container that others wait for may stay as it is before that is named. `activation`:
    how long a Knative Revision whose pods are ready may wait to be taken as such. `reconciling`:
    how long KServe may fail at a reconcile before that is named, `unreconciled`: before it fails
    the rollout.
    """

    volume: timedelta = timedelta(seconds=10)
    admission: timedelta = timedelta(seconds=10)
    unschedulable: timedelta = timedelta(seconds=60)
    stable: timedelta = timedelta(seconds=60)
    recovered: timedelta = timedelta(minutes=10)
    unanswering: timedelta = timedelta(seconds=60)
    refusal_in_doubt: timedelta = timedelta(seconds=30)
    silent: timedelta = timedelta(minutes=3)
    activation: timedelta = timedelta(seconds=30)
    reconciling: timedelta = timedelta(seconds=2)
    unreconciled: timedelta = timedelta(seconds=5)


GRACE_PERIODS = GracePeriods()

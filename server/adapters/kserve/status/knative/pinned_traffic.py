"""Detect a canaryTrafficPercent of another field manager that keeps traffic from our Revision.

Our server-side applies do not name the field, so another manager's value stays. KServe then gives
the newest Revision that share alone, and reports the service as Ready.
"""

from __future__ import annotations

from datetime import datetime

from server.adapters.kserve.manifests.field_managers import (
    manager_names,
    newest_time,
    other_owners,
    owned_by_us,
)
from server.adapters.kserve.manifests.field_ownership import PREDICTOR
from server.adapters.kserve.status.components import ComponentSpec
from server.adapters.kserve.status.knative.revisions import KnativeService
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Component, Failure, FailureReason

_FIELD = "canaryTrafficPercent"
_PATH = (*PREDICTOR, f"f:{_FIELD}")
_ALL = 100
MAX_SHARES = 5


def pinned_traffic(
    component: ComponentSpec,
    observed: ObservedObjects,
    found: KnativeService,
    completed_at: datetime,
) -> Failure | None:
    """Report that a field keeps requests from the newest Revision, complete since `completed_at`.

    None if it gets all requests, or the share that we asked for. For a service that is not ours the
    field is part of the spec.
    """
    service, percent = observed.service, component.spec.get(_FIELD)
    if component.kind is not Component.PREDICTOR or percent is None:
        return None
    if owned_by_us(service, *_PATH) or not owned_by_us(service, *PREDICTOR):
        return None
    shares = {share.revision: share.percent for share in found.traffic}
    own = shares.pop(found.latest_name, 0)
    if own >= _ALL:
        return None
    owners = other_owners(service, *_PATH)
    manager = f"the field manager {manager_names(owners)}" if owners else "an unknown field manager"
    others = [f" and {share} % to {name}" for name, share in shares.items() if share]
    return failure_of(
        FailureReason.TRAFFIC_PINNED,
        f"{own} % of the requests go to this rollout's revision {found.latest_name}"
        f"{''.join(others[:MAX_SHARES])}: {manager} set spec.predictor.{_FIELD} to {percent}",
        component=component.kind,
        first_seen_time=max(completed_at, newest_time(owners) or completed_at),
    )

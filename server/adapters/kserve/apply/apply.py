"""Deploy on the API server: planned on what is there, applied only onto exactly that."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.adapters.kserve.apply.adoption import predictor_taken_over, replacement, tried
from server.adapters.kserve.apply.api_server_errors import (
    has_two_predictors,
    is_field_conflict,
    is_stale,
    owned_by_others,
    refusal,
    unavailable,
)
from server.adapters.kserve.apply.knative_discovery import KnativePresence
from server.adapters.kserve.apply.kserve_config import ConfigReader, KServeConfig
from server.adapters.kserve.apply.retry import Present, Stale, attempted, derived
from server.adapters.kserve.apply.runtime_reader import RuntimeReader
from server.adapters.kserve.apply.service_objects import Allowance, ServiceObjects, Terms
from server.adapters.kserve.apply.write_plan import Plan, plan_of, with_filled_in
from server.adapters.kserve.client import Answer
from server.adapters.kserve.informers.kserve_release import KServeTooOld
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.manifests.annotations import FilledIn
from server.adapters.kserve.manifests.field_ownership import predictor_owners
from server.adapters.kserve.manifests.object_parser import dropped_by, naming, service_of
from server.adapters.kserve.manifests.readiness_probe import probe_for
from server.adapters.kserve.manifests.resource_defaults import beside_model
from server.adapters.kserve.manifests.serving_runtimes import Runtimes, candidates, resources_of
from server.adapters.kserve.modes import KNATIVE
from server.adapters.kserve.names import UPDATES_DISABLED_ANNOTATION
from server.adapters.kserve.objects import rollout_of
from server.domain.errors import (
    ServiceDeleting,
    ServiceError,
    UnsupportedByCluster,
    UpdatesDisabled,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import InferenceServiceStatus
from server.domain.service.commands import Action, Applied, Deploy
from server.domain.service.deploy_plan import initial_status
from server.domain.service.inference_service import ModelPredictor, Resources, ServiceKey
from server.domain.service.preconditions import PastRequest

RawObject = Mapping[str, Any]

DROPPED = "no longer part of it"


class Writing:
    """Carries out Deploys."""

    def __init__(
        self,
        objects: ServiceObjects,
        config: ConfigReader,
        runtimes: RuntimeReader,
        knative: KnativePresence,
        feed: StatusFeed,
    ) -> None:
        self._objects = objects
        self._config = config
        self._runtimes = runtimes
        self._knative = knative
        self._feed = feed

    async def apply(self, deploy: Deploy) -> Applied:
        """Store the wish; see `server.ports.Cluster.apply`."""
        terms = Terms(deploy.validate_only, Allowance(deploy.timeout))

        async def attempt(present: Present) -> Applied:
            return await self._attempt(deploy, present, terms)

        return await attempted(attempt, deploy.key, self._feed, self._objects, terms.allowance)

    async def _attempt(self, deploy: Deploy, present: Present, terms: Terms) -> Applied:
        """Plan and write once. Raises Stale instead of a refusal that rests on a held object."""
        config = await self._settings(terms)
        try:
            plan = plan_of(deploy, present.obj, config, secrets.token_hex(8))
            if isinstance(plan, Plan) and plan.mode == KNATIVE:
                await self._knative.require(
                    deploy.key, terms.allowance.seconds(), by_default=plan.default_mode
                )
        except ServiceError as refused:
            if present.live:
                raise
            raise Stale from refused
        if isinstance(plan, PastRequest):
            return self._replayed(plan, present)
        if plan.reads_the_same:
            return self._unchanged(deploy, present)
        if plan.replaces_pods:
            plan = with_filled_in(plan, await self._filled_in(plan, terms), config)
        if plan.frozen:
            await self._admit_no_change(deploy, plan, terms)
        answer = await self._write(deploy, plan, terms)
        if not answer.ok:
            raise _refused(deploy, plan, answer, present.live)
        return self._applied(deploy, plan, answer.body)

    async def _settings(self, terms: Terms) -> KServeConfig:
        try:
            release = await self._feed.releases.read(terms.allowance.seconds())
        except KServeTooOld as e:
            raise UnsupportedByCluster(str(e)) from e
        if release is None:
            raise unavailable(self._feed.away())
        config = await self._config.read(terms.allowance.seconds())
        return replace(config, release=release)

    async def _filled_in(self, plan: Plan, terms: Terms) -> FilledIn:
        key, spec = plan.wish.key, plan.wish.spec
        runtimes, resources = Runtimes(), Resources()
        if isinstance(spec.serving, ModelPredictor):
            seconds = terms.allowance.seconds()
            runtimes = await self._runtimes.read(spec.serving, key.namespace, seconds)
            for runtime in candidates(spec.serving, runtimes)[:1]:
                resources = beside_model(spec.resources, resources_of(runtime))
        probe = probe_for(key.name, spec, runtimes) if plan.wants_probe else None
        return FilledIn(resources, probe)

    async def _write(self, deploy: Deploy, plan: Plan, terms: Terms) -> Answer:
        if plan.current is None or not plan.takes_over:
            return await self._apply(deploy, plan.manifest, terms)
        if terms.dry_run:
            return await self._objects.merge(
                deploy.key, replacement(plan.current, plan.manifest), terms
            )
        taken = await self._take_over(deploy.key, plan.current, terms)
        if not taken.ok:
            return taken
        version = {"resourceVersion": taken.body["metadata"]["resourceVersion"]}
        manifest = {**plan.manifest, "metadata": {**plan.manifest["metadata"], **version}}
        return await self._apply(deploy, manifest, terms)

    async def _apply(self, deploy: Deploy, manifest: RawObject, terms: Terms) -> Answer:
        return await self._objects.apply(deploy.key, manifest, terms, force=deploy.force)

    async def _take_over(self, key: ServiceKey, current: RawObject, terms: Terms) -> Answer:
        metadata = {
            "uid": current["metadata"]["uid"],
            "resourceVersion": current["metadata"]["resourceVersion"],
            "managedFields": predictor_taken_over(current),
        }
        return await self._objects.merge(key, {"metadata": metadata}, terms)

    async def _admit_no_change(self, deploy: Deploy, plan: Plan, terms: Terms) -> None:
        """Refuse what KServe would not carry out; what changes nothing passes."""
        answer = await self._write(deploy, plan, Terms(True, terms.allowance))
        if answer.ok and _action(plan, answer.body) is not Action.UNCHANGED:
            raise UpdatesDisabled(
                f"{deploy.key} has the annotation {UPDATES_DISABLED_ANNOTATION}, so KServe would"
                " not act on the change; remove it first"
            )

    def _applied(self, deploy: Deploy, plan: Plan, written: RawObject) -> Applied:
        action = _action(plan, written)
        dropped = dropped_by(written, plan.current) if plan.current and deploy.force else []
        if deploy.validate_only:
            if plan.takes_over:
                written = tried(written, plan.manifest)
            status = naming(self._status_then(deploy.key, action), DROPPED, dropped)
            return Applied(service_of(written, status), action, None)
        self._feed.mirror.put_written(written)
        if "deletionTimestamp" in written["metadata"]:
            raise ServiceDeleting(deploy.key)
        service = derived(self._feed, written)
        service = replace(service, status=naming(service.status, DROPPED, dropped))
        return Applied(service, action, rollout_of(written))

    def _unchanged(self, deploy: Deploy, present: Present) -> Applied:
        """Answer without a write. Raises Stale for a held object, which no precondition checks."""
        if present.obj is None or not present.live:
            raise Stale
        self._feed.mirror.put_written(present.obj)
        rollout = None if deploy.validate_only else rollout_of(present.obj)
        return Applied(derived(self._feed, present.obj), Action.UNCHANGED, rollout)

    def _replayed(self, first: PastRequest, present: Present) -> Applied:
        if present.obj is None or not present.live:
            raise Stale
        self._feed.mirror.put_written(present.obj)
        rollout = Rollout(present.obj["metadata"]["uid"], first.generation)
        return Applied(derived(self._feed, present.obj), first.action, rollout)

    def _status_then(self, key: ServiceKey, action: Action) -> InferenceServiceStatus:
        """What a Deploy that was only tried would answer: never what an older rollout came to."""
        present = self._feed.derive(key)
        if present and action is Action.UNCHANGED:
            return present.status
        return initial_status(present.status if present else None)


def _action(plan: Plan, written: RawObject) -> Action:
    """What a write did: whatever changes anything of ours has a new generation."""
    if plan.current is None or rollout_of(written) != rollout_of(plan.current):
        return plan.action
    return Action.UNCHANGED


def _refused(deploy: Deploy, plan: Plan, answer: Answer, live: bool) -> Exception:
    # The fields of others are told before a stale precondition is.
    if is_stale(answer) or (is_field_conflict(answer) and not live):
        return Stale()
    owners = predictor_owners(plan.current) if plan.current else []
    if has_two_predictors(answer) and owners:
        return owned_by_others(deploy.key, ["spec.predictor"], owners)
    return refusal(answer, deploy.key, writes=not deploy.validate_only)

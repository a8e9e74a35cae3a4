"""Carry out a Deploy: plan it on the object that is there, and apply it only onto that object."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from server.adapters.kserve.apply.adoption import adoption_patch, as_owned, ownership_patch
from server.adapters.kserve.apply.api_server_errors import (
    error_of,
    field_conflict,
    has_two_predictors,
    is_field_conflict,
    is_stale,
    unavailable,
)
from server.adapters.kserve.apply.event_recorder import EventRecorder
from server.adapters.kserve.apply.knative_discovery import KnativeDiscovery
from server.adapters.kserve.apply.kserve_config import ConfigReader, KServeConfig
from server.adapters.kserve.apply.retry import (
    ConflictRetry,
    CurrentObject,
    StaleObject,
    service_after_write,
)
from server.adapters.kserve.apply.runtime_reader import RuntimeReader
from server.adapters.kserve.apply.service_client import LEAST_TIME, ServiceClient, WriteOptions
from server.adapters.kserve.apply.write_plan import Plan, plan_deploy
from server.adapters.kserve.client import Answer
from server.adapters.kserve.informers.kserve_release import KServeTooOld
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.manifests.field_ownership import PREDICTOR, manager_names_at
from server.adapters.kserve.manifests.object_parser import removed_paths, service_of, with_paths
from server.adapters.kserve.modes import KNATIVE, STANDARD, mode_of, settled_mode_of
from server.adapters.kserve.names import UPDATES_DISABLED_ANNOTATION
from server.adapters.kserve.objects import Object, annotations_of, rollout_of
from server.deadline import Deadline
from server.domain.errors import (
    ServiceDeleting,
    ServiceError,
    UnsupportedByCluster,
    UpdatesDisabled,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import Action, Applied, Deploy
from server.domain.service.deploy_plan import initial_status
from server.domain.service.inference_service import ModelPredictor
from server.domain.service.preconditions import PastRequest
from server.domain.service.write_warnings import WriteWarning, standard_mode_warnings

REMOVED = "removed from the service"


class ServiceApplier:
    """Carries out Deploys."""

    def __init__(
        self,
        client: ServiceClient,
        retry: ConflictRetry,
        config: ConfigReader,
        runtimes: RuntimeReader,
        knative: KnativeDiscovery,
        feed: StatusFeed,
        events: EventRecorder,
    ) -> None:
        self._client = client
        self._retry = retry
        self._config = config
        self._runtimes = runtimes
        self._knative = knative
        self._feed = feed
        self._events = events

    async def apply(self, deploy: Deploy) -> Applied:
        """Store the desired spec; see `server.ports.Cluster.apply`."""
        return await self._retry.run(deploy.key, deploy.deadline, partial(self._attempt, deploy))

    async def _attempt(self, deploy: Deploy, current: CurrentObject) -> Applied:
        """Plan and write once. Raises StaleObject instead of an error that rests on the cache."""
        config = await self._kserve_config(deploy.deadline)
        try:
            plan = plan_deploy(deploy, current.parsed, config, secrets.token_hex(8))
            if isinstance(plan, Plan) and plan.mode == KNATIVE:
                await self._knative.require(
                    deploy.key, deploy.deadline, by_default=plan.default_mode
                )
        except ServiceError as error:
            if current.live:
                raise
            raise StaleObject from error
        if isinstance(plan, PastRequest) or plan.unchanged:
            applied = self._already_applied(deploy, plan, current)
            return _with_warnings(applied, current.parsed.obj if current.parsed else {}, config)
        if plan.replaces_pods:
            plan = plan.with_added_fields(await self._runtimes_of(plan, deploy.deadline))
        if plan.frozen:
            await self._refuse_change(deploy, plan)
        answer = await self._write(deploy, plan, dry_run=deploy.validate_only)
        if not answer.ok:
            raise _write_error(deploy, plan, answer, current.live)
        applied = self._applied(deploy, plan, answer.body)
        return _with_warnings(applied, answer.body, config, answer.warnings)

    async def _kserve_config(self, deadline: Deadline) -> KServeConfig:
        try:
            release = await self._feed.releases.read(deadline.left(LEAST_TIME))
        except KServeTooOld as e:
            raise UnsupportedByCluster(str(e)) from e
        if release is None:
            raise unavailable(self._feed.away())
        config = await self._config.read(deadline)
        return replace(config, release=release)

    def _already_applied(
        self, deploy: Deploy, plan: Plan | PastRequest, current: CurrentObject
    ) -> Applied:
        """Answer without a write. Only for a live object: no precondition checks a cached one."""
        if current.parsed is None or not current.live:
            raise StaleObject
        obj = current.parsed.obj
        service = service_after_write(self._feed, obj)
        rollout: Rollout | None
        if isinstance(plan, PastRequest):
            rollout = Rollout(service.uid, plan.generation)
        else:
            rollout = None if deploy.validate_only else rollout_of(obj)
        return Applied(service, plan.action, rollout)

    async def _runtimes_of(self, plan: Plan, deadline: Deadline) -> Sequence[Object]:
        """Return the serving runtimes that KServe chooses from for a model."""
        key, serving = plan.desired.key, plan.desired.spec.serving
        if not isinstance(serving, ModelPredictor):
            return ()
        return await self._runtimes.read(serving, key.namespace, deadline)

    async def _refuse_change(self, deploy: Deploy, plan: Plan) -> None:
        """Refuse a change that KServe would not act on; a write that changes nothing passes."""
        answer = await self._write(deploy, plan, dry_run=True)
        if answer.ok and _action(plan, rollout_of(answer.body)) is not Action.UNCHANGED:
            raise UpdatesDisabled(
                f"{deploy.key} has the annotation {UPDATES_DISABLED_ANNOTATION}, so KServe would"
                " not act on the change; remove it first"
            )

    async def _write(self, deploy: Deploy, plan: Plan, *, dry_run: bool) -> Answer:
        key, manifest = deploy.key, plan.manifest
        options = WriteOptions(dry_run, deploy.deadline)
        if plan.current and plan.adopts:
            obj = plan.current.obj
            if dry_run:
                return await self._client.merge(key, adoption_patch(obj, manifest), options)
            adopted = await self._client.merge(key, ownership_patch(obj), options)
            if not adopted.ok:
                return adopted
            version = {"resourceVersion": adopted.body["metadata"]["resourceVersion"]}
            manifest = {**manifest, "metadata": {**manifest["metadata"], **version}}
        return await self._client.apply(key, manifest, options, force=deploy.force)

    def _applied(self, deploy: Deploy, plan: Plan, written: Object) -> Applied:
        rollout = rollout_of(written)
        action = _action(plan, rollout)
        removed = removed_paths(plan.current, written) if plan.current and deploy.force else []
        if deploy.validate_only:
            if plan.adopts:
                written = as_owned(written, plan.manifest)
            held = self._feed.derive(deploy.key)
            # Never the status of an older rollout.
            status = initial_status(held.status if held else None)
            if held and action is Action.UNCHANGED:
                status = held.status
            return Applied(service_of(written, with_paths(status, REMOVED, removed)), action, None)
        service = service_after_write(self._feed, written)
        if action is not Action.UNCHANGED:
            self._events.deployed(deploy, written, action)
        if "deletionTimestamp" in written["metadata"]:
            raise ServiceDeleting(deploy.key)
        if removed:
            service = replace(service, status=with_paths(service.status, REMOVED, removed))
        return Applied(service, action, rollout)


def _with_warnings(
    applied: Applied, obj: Object, config: KServeConfig, of_the_cluster: Sequence[str] = ()
) -> Applied:
    """Add the warnings about the object's spec and mode, and those of the API server."""
    service = applied.service
    warnings = [WriteWarning("", text) for text in of_the_cluster]
    mode = mode_of(settled_mode_of(obj), annotations_of(obj)) or config.default_mode
    if service.spec and mode == STANDARD:
        warnings = [*standard_mode_warnings(service.spec, annotations_of(obj)), *warnings]
    return replace(applied, warnings=tuple(warnings))


def _action(plan: Plan, written: Rollout) -> Action:
    """Return the action of a write: any change of our fields raises the generation."""
    if plan.current is None or written != rollout_of(plan.current.obj):
        return plan.action
    return Action.UNCHANGED


def _write_error(deploy: Deploy, plan: Plan, answer: Answer, live: bool) -> Exception:
    # The API server reports conflicting fields before it compares the preconditions.
    if is_stale(answer) or (is_field_conflict(answer) and not live):
        return StaleObject()
    if plan.current and has_two_predictors(answer):
        owners = manager_names_at(plan.current.managers.others, *PREDICTOR)
        if owners:
            return field_conflict(deploy.key, ["spec.predictor"], owners)
    return error_of(answer, deploy.key, writes=not deploy.validate_only)

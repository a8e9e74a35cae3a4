"""Requests from the flags of `modelctl deploy`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from modelservice.v1.inference_service_pb2 import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    RolloutStrategy,
    Scaling,
    SecretKeyRef,
)

_STRATEGIES = {
    "rolling": RolloutStrategy.TYPE_ROLLING,
    "recreate": RolloutStrategy.TYPE_RECREATE,
}


class UsageError(Exception):
    """The command line is wrong; nothing was sent."""


@dataclass
class SpecFlags:
    """The flags that make a spec. Empty texts, lists and None are not given."""

    format: str = ""
    format_version: str = ""
    storage_uri: str = ""
    runtime: str = ""
    protocol: str = ""
    image: str = ""
    port: int | None = None
    args: list[str] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    secret_env: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    replicas: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    target: int | None = None
    metric: str = ""
    service_account: str = ""
    mode: str = ""
    request_timeout: int | None = None
    ready_timeout: int | None = None
    rollout_strategy: str = ""


def spec_of(flags: SpecFlags, base: InferenceServiceSpec | None = None) -> InferenceServiceSpec:
    """Return the spec that the flags make, over that of a file. Raises UsageError."""
    spec = InferenceServiceSpec()
    if base is not None:
        spec.CopyFrom(base)
    _set_predictor(spec, flags)
    if flags.replicas is not None and (flags.min_replicas, flags.max_replicas) != (None, None):
        raise UsageError("--replicas sets --min-replicas and --max-replicas: give it or them")
    spec.MergeFrom(
        InferenceServiceSpec(
            env=pairs("--env", flags.env),
            secret_env={
                name: _secret(reference)
                for name, reference in pairs("--secret-env", flags.secret_env).items()
            },
            service_account=flags.service_account,
            deployment_mode=flags.mode,
        )
    )
    if flags.requests or flags.limits:
        resources = Resources(
            requests=pairs("--request", flags.requests), limits=pairs("--limit", flags.limits)
        )
        spec.resources.MergeFrom(resources)
    scaling = Scaling(
        min_replicas=flags.min_replicas if flags.replicas is None else flags.replicas,
        max_replicas=flags.max_replicas if flags.replicas is None else flags.replicas,
        target=flags.target,
        metric=flags.metric,
    )
    if scaling != Scaling():
        spec.scaling.MergeFrom(scaling)
    if flags.request_timeout is not None:
        spec.request_timeout.CopyFrom(Duration(seconds=flags.request_timeout))
    if flags.ready_timeout is not None:
        spec.ready_timeout.CopyFrom(Duration(seconds=flags.ready_timeout))
    if flags.rollout_strategy:
        _set_strategy(spec, flags.rollout_strategy)
    return spec


def _set_strategy(spec: InferenceServiceSpec, name: str) -> None:
    """Set the type of the strategy. A file's strategy of the same type keeps its other fields."""
    if name not in _STRATEGIES:
        known = " or ".join(_STRATEGIES)
        raise UsageError(f"--rollout-strategy must be {known}, got {name[:64]}")
    if spec.rollout_strategy.type != _STRATEGIES[name]:
        spec.rollout_strategy.CopyFrom(RolloutStrategy(type=_STRATEGIES[name]))


def _set_predictor(spec: InferenceServiceSpec, flags: SpecFlags) -> None:
    model = ModelPredictor(
        storage_uri=flags.storage_uri, runtime=flags.runtime, protocol_version=flags.protocol
    )
    if flags.format or flags.format_version:
        model.format.CopyFrom(ModelFormat(name=flags.format, version=flags.format_version))
    if flags.image and model != ModelPredictor():
        raise UsageError(
            "--image is a server of its own: --format, --format-version, --storage-uri, --runtime"
            " and --protocol do not go with it"
        )
    if flags.image:
        spec.container.image = flags.image
    elif model != ModelPredictor():
        spec.model.MergeFrom(model)
    predictor = spec.WhichOneof("predictor")
    if flags.port is not None:
        if predictor != "container":
            raise UsageError("--port needs --image: a serving runtime knows its own port")
        spec.container.port = flags.port
    if flags.args:
        if predictor not in ("container", "model"):
            raise UsageError("--arg needs --image or --format")
        (spec.container if predictor == "container" else spec.model).args[:] = flags.args


def pairs(flag: str, given: Iterable[str]) -> dict[str, str]:
    """Read NAME=VALUE texts. Values are in no error, since they may be secret."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} must be NAME=VALUE, got a text without a name or without =")
        if name in found:
            raise UsageError(f"{flag} must name {name} once")
        found[name] = value
    return found


def _secret(reference: str) -> SecretKeyRef:
    secret, colon, key = reference.partition(":")
    if not (secret and colon and key):
        raise UsageError("--secret-env must be NAME=SECRET:KEY")
    return SecretKeyRef(secret=secret, key=key)


def split_name(name: str, namespace: str) -> tuple[str, str]:
    """Return the namespace and the name, of a name that may be NAMESPACE/NAME as `-o name` prints
    it."""
    before, slash, after = name.partition("/")
    if not slash:
        return namespace, name
    if namespace and namespace != before:
        raise UsageError(f"--namespace {namespace} contradicts {name}")
    return before, after


def request_id_of(given: str, verb: str = "") -> str:
    """Return the given request_id, else that of the job on GitHub or GitLab, else an empty text.

    A job that deploys a service and restarts it makes two rollouts, so every `verb` but a Deploy's
    has an id of its own.
    """
    kind = f"-{verb}" if verb else ""
    if not given and (run := os.environ.get("GITHUB_RUN_ID")):
        given = f"github-{run}-{os.environ.get('GITHUB_RUN_ATTEMPT') or 1}{kind}"
    if not given and (job := os.environ.get("CI_JOB_ID")):
        given = f"gitlab-{job}{kind}"
    if given and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given):
        raise UsageError(
            f"--request-id must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', got {given[:64]}"
        )
    return given

"""Validate a spec: predictor, environment, scaling and scheduling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import chain

from server.domain.errors import FieldViolation
from server.domain.kubernetes.names import (
    Count,
    count_violations,
    data_key_problem,
    dns_subdomain_problem,
    escaped,
    field_path,
    label_value_problem,
    qualified_name_problem,
    size,
    variable_name_problem,
    violation_at,
    word_problem,
)
from server.domain.registry.resource_names import name_problem, project_problem, version_problem
from server.domain.service.inference_service import (
    RECREATE,
    ROLLING,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelPredictor,
    Predictor,
    RegisteredModelPredictor,
    RolloutStrategy,
    Scaling,
    SecretKeyRef,
    ServingOptions,
    Toleration,
)
from server.domain.service.resource_validation import resource_violations

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
PROTOCOLS = ("v1", "v2", "grpc-v1", "grpc-v2")
CONTAINER_PROTOCOLS = ("v1", "v2")
# Each mode's present name, by every name that KServe accepts.
DEPLOYMENT_MODES = {
    "Standard": "Standard",
    "RawDeployment": "Standard",
    "Knative": "Knative",
    "Serverless": "Knative",
}
METRICS: Mapping[str, tuple[str, ...]] = {
    "Standard": ("cpu", "memory"),
    "Knative": ("concurrency", "rps"),
}
_ALL_METRICS = tuple(metric for metrics in METRICS.values() for metric in metrics)
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
"""KServe's autoscaler in Standard mode; "hpa" without it."""
# With this annotation Knative leaves scaling to Kubernetes' own autoscaler, like Standard mode.
KNATIVE_AUTOSCALER = "autoscaling.knative.dev/class"
KUBERNETES_OWN = "hpa.autoscaling.knative.dev"
# Refused by Knative's webhook in every cluster. Settings that a cluster can allow are left to it.
_KNATIVE_VARIABLES = ("PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION")
_KNATIVE_PORTS = (8008, 8012, 8013, 8022, 9090, 9091)
# As Kubernetes' IntOrString writes them.
_PODS = re.compile(r"(0|[1-9][0-9]{0,8})%?", re.ASCII)

MOST_VARIABLES = 1000
MOST_ARGUMENTS = 1000
MOST_NODE_LABELS = 128
MOST_TOLERATIONS = 128
# Of one service. Kubernetes supports 150,000 pods in a whole cluster, so more is a slip, and a
# cluster without quotas would start as many as it can.
MOST_REPLICAS = 10_000
# Knative, too, takes it, in the seconds of 32 bits.
LONGEST_READY_TIMEOUT = timedelta(days=7)
# Linux passes no longer string to a process (MAX_ARG_STRLEN).
LONGEST_STRING = 128 * 1024 - 1
LONGEST_IMAGE = 8 * 1024
LONGEST_FORMAT = 100
# An object of more than about 1.5 MiB does not fit into etcd, and KServe copies it to its children.
MOST_SPEC_BYTES = 512 * 1024


def spec_violations(
    spec: InferenceServiceSpec, annotations: Mapping[str, str]
) -> Iterator[FieldViolation]:
    """Find everything that keeps a spec with these annotations from ever working."""
    yield from predictor_violations(spec.predictor)
    yield from _option_violations(spec)
    yield from mode_violations(spec, DEPLOYMENT_MODES.get(spec.deployment_mode, ""), annotations)
    served_by = _served_by(spec.predictor)
    if isinstance(served_by, ContainerPredictor):
        yield from _container_variable_violations(spec)
    yield from _size_violations(chain(_option_texts(spec), _predictor_texts(served_by)))


def option_violations(options: ServingOptions) -> Iterator[FieldViolation]:
    """Find everything that keeps options from ever working with any predictor."""
    yield from _option_violations(options)
    mode = DEPLOYMENT_MODES.get(options.deployment_mode, "")
    # A Deploy's annotations may ask for either of Knative's autoscalers.
    metrics = METRICS["Standard"] if mode == "Standard" else _ALL_METRICS
    yield from _metric_violations(options.scaling.metric, metrics)
    yield from _variable_violations(options, mode)
    yield from _knative_strategy_violations(options, mode)
    yield from _size_violations(_option_texts(options))


def mode_violations(
    spec: InferenceServiceSpec, mode: str, annotations: Mapping[str, str]
) -> Iterator[FieldViolation]:
    """Find settings that can never work in a deployment mode; empty: in any mode."""
    if annotations.get(KNATIVE_AUTOSCALER) == KUBERNETES_OWN:
        where, metrics = f" with {KNATIVE_AUTOSCALER}: {KUBERNETES_OWN}", METRICS["Standard"]
    else:
        where, metrics = f" in {mode} mode" if mode else "", METRICS.get(mode, _ALL_METRICS)
    yield from _metric_violations(spec.scaling.metric, metrics, where)
    yield from _variable_violations(spec, mode)
    yield from _knative_strategy_violations(spec, mode)
    match spec.predictor:
        case (
            ContainerPredictor(port=port)
            | RegisteredModelPredictor(resolved=ContainerPredictor(port=port))
        ) if mode == "Knative" and port in _KNATIVE_PORTS:
            why = f"must not be {port}: Knative's queue-proxy uses it"
            yield FieldViolation("spec.container.port", why)


def _metric_violations(
    metric: str, metrics: tuple[str, ...], where: str = ""
) -> Iterator[FieldViolation]:
    if metric and metric not in metrics:
        why = f"must be one of {', '.join(metrics)}{where}, got {escaped(metric)}"
        yield FieldViolation("spec.scaling.metric", why)


def _variable_violations(options: ServingOptions, mode: str) -> Iterator[FieldViolation]:
    for name in _KNATIVE_VARIABLES if mode == "Knative" else ():
        for path, names in (("spec.env", options.env), ("spec.secret_env", options.secret_env)):
            if name in names:
                yield FieldViolation(field_path(path, name), "must not be set: Knative sets it")


def _knative_strategy_violations(options: ServingOptions, mode: str) -> Iterator[FieldViolation]:
    if mode == "Knative" and options.rollout_strategy is not None:
        why = "must not be set in Knative mode: a new revision starts beside the older one"
        yield FieldViolation("spec.rollout_strategy", why)


def predictor_violations(predictor: Predictor) -> Iterator[FieldViolation]:
    """Find everything that keeps a predictor from ever working."""
    match predictor:
        case ContainerPredictor() as container:
            yield from _container_violations(container)
        case ModelPredictor() as model:
            yield from _model_violations(model)
        case RegisteredModelPredictor() as registered:
            yield from _registered_violations(registered)


def _option_violations(options: ServingOptions) -> Iterator[FieldViolation]:
    variables = len(options.env) + len(options.secret_env)
    yield from count_violations(
        [
            Count("spec.env", variables, MOST_VARIABLES, " with those of secret_env"),
            Count("spec.node_selector", len(options.node_selector), MOST_NODE_LABELS),
            Count("spec.tolerations", len(options.tolerations), MOST_TOLERATIONS),
        ]
    )
    yield from _environment_violations(options)
    yield from resource_violations(options.resources)
    yield from _scaling_violations(options.scaling)
    yield from _word_violations(options)
    yield from _node_selector_violations(options.node_selector)
    yield from _toleration_violations(options.tolerations)
    if options.rollout_strategy is not None:
        yield from _strategy_violations(options.rollout_strategy)


def _size_violations(texts: Iterable[str]) -> Iterator[FieldViolation]:
    if sum(map(size, texts)) > MOST_SPEC_BYTES:
        yield FieldViolation(
            "spec", f"must have at most {MOST_SPEC_BYTES >> 10} KiB of text in total"
        )


def _container_violations(container: ContainerPredictor) -> Iterator[FieldViolation]:
    yield from violation_at("spec.container.image", word_problem(container.image, LONGEST_IMAGE))
    yield from _argument_violations(
        {"spec.container.command": container.command, "spec.container.args": container.args}
    )
    if not 0 <= container.port <= 65535:
        why = f"must be from 1 to 65535, or 0 for KServe's default, got {container.port}"
        yield FieldViolation("spec.container.port", why)


def _model_violations(model: ModelPredictor) -> Iterator[FieldViolation]:
    name, version = model.format.name, model.format.version
    yield from violation_at("spec.model.format.name", word_problem(name, LONGEST_FORMAT))
    if version:
        yield from violation_at("spec.model.format.version", word_problem(version, LONGEST_FORMAT))
    yield from violation_at("spec.model.storage_uri", _string_problem(model.storage_uri))
    if model.runtime and dns_subdomain_problem(model.runtime):
        why = "must be the name of a serving runtime of the cluster, not an image, got"
        yield FieldViolation("spec.model.runtime", f"{why} {escaped(model.runtime)}")
    yield from _one_of("spec.model.protocol_version", model.protocol_version, PROTOCOLS)
    yield from _argument_violations({"spec.model.args": model.args})


def _registered_violations(registered: RegisteredModelPredictor) -> Iterator[FieldViolation]:
    """Check the names only: the resources were checked when they were registered."""
    path = "spec.registered_model"
    yield from violation_at(f"{path}.project", project_problem(registered.project))
    yield from violation_at(f"{path}.model", name_problem(registered.model))
    yield from violation_at(f"{path}.environment", name_problem(registered.environment))
    if registered.version:
        yield from violation_at(f"{path}.version", version_problem(registered.version))


def _served_by(predictor: Predictor) -> Predictor | None:
    """Return the predictor that runs; None if it is not resolved yet."""
    return predictor.resolved if isinstance(predictor, RegisteredModelPredictor) else predictor


def _argument_violations(lists: Mapping[str, tuple[str, ...]]) -> Iterator[FieldViolation]:
    """Check lists of arguments by their paths."""
    counts = (Count(path, len(arguments), MOST_ARGUMENTS) for path, arguments in lists.items())
    yield from count_violations(counts)
    for path, arguments in lists.items():
        for index, argument in enumerate(arguments):
            yield from violation_at(f"{path}[{index}]", _string_problem(argument))


def _environment_violations(options: ServingOptions) -> Iterator[FieldViolation]:
    for name, value in options.env.items():
        path = field_path("spec.env", name)
        yield from violation_at(path, _variable_problem(name))
        yield from violation_at(path, _string_problem(f"{name}={value}"))
        if name in options.secret_env:
            yield FieldViolation(path, "must not be in secret_env as well")
    for name, reference in options.secret_env.items():
        yield from violation_at(field_path("spec.secret_env", name), _variable_problem(name))
        yield from _reference_violations(field_path("spec.secret_env", name), reference)


def _variable_problem(name: str) -> str | None:
    if name == "PYTHONPATH":
        return (
            "must not be set: KServe refuses it, since it could replace the model server's own code"
        )
    return variable_name_problem(name)


def _reference_violations(path: str, reference: SecretKeyRef) -> Iterator[FieldViolation]:
    yield from violation_at(f"{path}.secret", dns_subdomain_problem(reference.secret))
    yield from violation_at(f"{path}.key", data_key_problem(reference.key))


def _container_variable_violations(spec: InferenceServiceSpec) -> Iterator[FieldViolation]:
    """Check variables that KServe itself reads from the spec, which has no values of Secrets."""
    if spec.env.get("PROTOCOL", "v1") not in CONTAINER_PROTOCOLS:
        yield FieldViolation(field_path("spec.env", "PROTOCOL"), "must be v1 or v2 for KServe")
    for name in ("PROTOCOL", "STORAGE_URI"):
        if name in spec.secret_env:
            path = field_path("spec.secret_env", name)
            yield FieldViolation(path, "must be given in env: KServe reads it from the spec")


def _scaling_violations(scaling: Scaling) -> Iterator[FieldViolation]:
    low, high = scaling.min_replicas, scaling.max_replicas
    for name, given, least in (("min_replicas", low, 0), ("max_replicas", high, 1)):
        if given is not None and not least <= given <= MOST_REPLICAS:
            why = f"must be from {least} to {MOST_REPLICAS}, got {given}"
            yield FieldViolation(f"spec.scaling.{name}", why)
    if low is not None and high is not None and low > high:
        why = f"must not be above max_replicas, which is {high}, got {low}"
        yield FieldViolation("spec.scaling.min_replicas", why)
    if scaling.target is not None and scaling.target < 1:
        yield FieldViolation("spec.scaling.target", f"must be at least 1, got {scaling.target}")


def _strategy_violations(strategy: RolloutStrategy) -> Iterator[FieldViolation]:
    path = "spec.rollout_strategy"
    limits = {
        "max_surge": strategy.max_surge,
        "max_unavailable": strategy.max_unavailable,
    }
    if strategy.type not in (ROLLING, RECREATE):
        yield FieldViolation(f"{path}.type", "must be set: TYPE_ROLLING or TYPE_RECREATE")
    for name, text in limits.items():
        if text and strategy.type == RECREATE:
            why = f"must be empty with TYPE_RECREATE, got {escaped(text)}"
            yield FieldViolation(f"{path}.{name}", why)
        elif text:
            yield from violation_at(f"{path}.{name}", _pods_problem(text))
    if strategy.max_unavailable.endswith("%") and _pods(strategy.max_unavailable) > 100:
        why = f"must be at most 100%, got {escaped(strategy.max_unavailable)}"
        yield FieldViolation(f"{path}.max_unavailable", why)
    if all(text and _pods(text) == 0 for text in limits.values()):
        why = "must not be 0 if max_surge is 0: no pod could ever be replaced"
        yield FieldViolation(f"{path}.max_unavailable", why)


def _pods_problem(text: str) -> str | None:
    if _PODS.fullmatch(text) and _pods(text) <= MOST_REPLICAS:
        return None
    return (
        f'must be a number of pods such as "1", or a percentage such as "25%", at most'
        f" {MOST_REPLICAS}, got {escaped(text)}"
    )


def _pods(text: str) -> int:
    """Return the number or percentage; -1 if it is neither."""
    return int(text.removesuffix("%")) if _PODS.fullmatch(text) else -1


def _word_violations(options: ServingOptions) -> Iterator[FieldViolation]:
    if options.service_account:
        problem = dns_subdomain_problem(options.service_account)
        yield from violation_at("spec.service_account", problem)
    yield from _one_of("spec.image_pull_policy", options.image_pull_policy, PULL_POLICIES)
    yield from _one_of("spec.deployment_mode", options.deployment_mode, DEPLOYMENT_MODES)
    timeout = options.request_timeout
    if timeout is not None and (timeout < timedelta(seconds=1) or timeout.microseconds):
        why = f"must be a whole number of seconds, at least 1, got {timeout.total_seconds():g}"
        yield FieldViolation("spec.request_timeout", why)
    ready_timeout = options.ready_timeout
    if ready_timeout is not None and (
        not timedelta(seconds=1) <= ready_timeout <= LONGEST_READY_TIMEOUT
        or ready_timeout.microseconds
    ):
        most = LONGEST_READY_TIMEOUT.total_seconds()
        why = f"must be a whole number of seconds, from 1 to {most:.0f}, got"
        yield FieldViolation("spec.ready_timeout", f"{why} {ready_timeout.total_seconds():.15g}")


def _node_selector_violations(node_selector: Mapping[str, str]) -> Iterator[FieldViolation]:
    for key, value in node_selector.items():
        path = field_path("spec.node_selector", key)
        yield from violation_at(path, qualified_name_problem(key))
        yield from violation_at(path, label_value_problem(value))


def _toleration_violations(tolerations: tuple[Toleration, ...]) -> Iterator[FieldViolation]:
    for index, toleration in enumerate(tolerations):
        yield from _one_toleration_violations(f"spec.tolerations[{index}]", toleration)


def _one_toleration_violations(path: str, toleration: Toleration) -> Iterator[FieldViolation]:
    exists = toleration.operator == "Exists"
    yield from _one_of(f"{path}.operator", toleration.operator, ("Equal", "Exists"))
    effects = ("NoSchedule", "PreferNoSchedule", "NoExecute")
    yield from _one_of(f"{path}.effect", toleration.effect, effects)
    if toleration.key:
        yield from violation_at(f"{path}.key", qualified_name_problem(toleration.key))
    elif not exists:
        yield FieldViolation(f"{path}.key", "must be set, except with the operator Exists")
    if exists and toleration.value:
        yield FieldViolation(
            f"{path}.value",
            f"must be empty with the operator Exists, got {escaped(toleration.value)}",
        )
    else:
        yield from violation_at(f"{path}.value", label_value_problem(toleration.value))
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        yield FieldViolation(
            f"{path}.toleration_seconds", "must be set only with the effect NoExecute"
        )


def _one_of(path: str, word: str, words: Iterable[str]) -> Iterator[FieldViolation]:
    if word and word not in words:
        yield FieldViolation(path, f"must be one of {', '.join(words)}, got {escaped(word)}")


def _string_problem(text: str) -> str | None:
    """Check that a string can be passed to a process."""
    if "\0" in text:
        return "must have no NUL character"
    if (length := size(text)) > LONGEST_STRING:
        return f"must have at most {LONGEST_STRING} bytes, Linux' limit, got {length}"
    return None


def _option_texts(options: ServingOptions) -> Iterator[str]:
    for name, value in options.env.items():
        yield from (name, value)


def _predictor_texts(predictor: Predictor | None) -> Iterator[str]:
    match predictor:
        case ContainerPredictor(image=image, command=command, args=args):
            yield from chain((image,), command, args)
        case ModelPredictor(format=model_format, storage_uri=storage_uri, args=args):
            yield from chain((model_format.name, model_format.version, storage_uri), args)

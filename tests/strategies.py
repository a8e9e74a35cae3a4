"""Whatever a caller may rightly ask for: every value here passes the door's checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from string import ascii_letters, ascii_lowercase, digits

from hypothesis import strategies as st

from server.domain.kubernetes.quantities import value
from server.domain.service.commands import STOP_ANNOTATION, Deploy
from server.domain.service.inference_service import (
    RECREATE,
    ROLLING,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    RolloutStrategy,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    ServingPredictor,
    Toleration,
)

# No NUL, which no process can be given, and no surrogates, which no message can carry.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def _matching(
    pattern: str, alphabet: str, longest: int, shortest: int = 1
) -> st.SearchStrategy[str]:
    """Texts of an alphabet that match a pattern, in one draw. from_regex makes one or two draws a
    character, and Hypothesis turns a bare `fullmatch` as a filter into from_regex."""
    fullmatch = re.compile(pattern).fullmatch
    text = st.text(alphabet, min_size=shortest, max_size=longest)
    return text.filter(lambda drawn: fullmatch(drawn) is not None)


_LOWER = ascii_lowercase + digits
_ALNUM = ascii_letters + digits
_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"

names = _matching(r"[a-z]([-a-z0-9]*[a-z0-9])?", _LOWER + "-", 20)
namespaces = _matching(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", _LOWER + "-", 20)
keys = st.builds(ServiceKey, namespaces, names)
request_ids = st.text(_ALNUM + "._-", min_size=1, max_size=64)

object_names = _matching(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)?", _LOWER + "-.", 21
)
label_values = _matching(f"({_LABEL})?", _ALNUM + "-_.", 22, 0)
_plain_keys = _matching(_LABEL, _ALNUM + "-_.", 22)
_domains = st.sampled_from(["example.com", "team.example.org", "app.kubernetes.io"])
label_keys = st.one_of(
    _plain_keys, st.builds("{}/{}".format, _domains, st.builds("x{}".format, _plain_keys))
)
labels = st.dictionaries(label_keys, label_values, max_size=4)
annotations = st.one_of(
    st.dictionaries(label_keys, texts, max_size=4),
    st.builds(
        lambda kept, stop: kept | {STOP_ANNOTATION: stop},
        st.dictionaries(label_keys, texts, max_size=2),
        st.sampled_from(["true", "false", "True"]),
    ),
)

variable_names = _matching(r"[A-Z_][-._A-Z0-9a-z]*", _ALNUM + "-._", 16).filter(
    lambda name: name not in ("PYTHONPATH", "PROTOCOL", "STORAGE_URI")
)
secret_references = st.builds(
    SecretKeyRef, object_names, _matching(r"[-_a-zA-Z0-9][-._a-zA-Z0-9]*", _ALNUM + "-_.", 16)
)

decimal_quantities = st.builds(
    "{}{}".format,
    st.one_of(
        st.integers(0, 5000),
        st.decimals(0, 5000, places=3).map(lambda number: f"{number:f}"),
    ),
    st.sampled_from(["", "m", "u", "n", "k", "M", "G", "e3", "E-2"]),
)
binary_quantities = st.builds(
    "{}{}".format,
    st.one_of(st.integers(0, 5000), st.sampled_from(["0.5", "1.5", ".25", "3.", "1024"])),
    st.sampled_from(["Ki", "Mi", "Gi", "Ti"]),
)
quantities = st.one_of(decimal_quantities, binary_quantities)


# What draws many times over is made once: Hypothesis looks at every new strategy anew.
_measured = st.sets(st.sampled_from(["cpu", "memory", "ephemeral-storage"]))
_counted = st.sets(st.sampled_from(["nvidia.com/gpu", "example.com/fpga"]))
_two_quantities = st.tuples(quantities, quantities).map(lambda two: sorted(two, key=value))
_shapes = st.sampled_from(["request", "limit", "both"])
_devices = st.integers(0, 8).map(str)
_either = st.booleans()


@st.composite
def resources(draw: st.DrawFn) -> Resources:
    """Requests, limits, both or none; devices in equal and whole numbers."""
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for name in draw(_measured):
        low, high = draw(_two_quantities)
        shape = draw(_shapes)
        requests |= {name: low} if shape != "limit" else {}
        limits |= {name: high} if shape != "request" else {}
    for name in draw(_counted):
        limits[name] = draw(_devices)
        requests |= {name: limits[name]} if draw(_either) else {}
    return Resources(requests, limits)


_lows = st.none() | st.integers(0, 100)
_targets = st.none() | st.integers(1, 100)
_metrics = st.sampled_from(["", "cpu", "memory"])


@st.composite
def scalings(draw: st.DrawFn) -> Scaling:
    """For the mode Standard."""
    low = draw(_lows)
    high = draw(st.integers(max(1, low or 1), 200)) if draw(_either) else None
    return Scaling(low, high, draw(_targets), draw(_metrics))


_effects = st.sampled_from(["", "NoSchedule", "PreferNoSchedule", "NoExecute"])
tolerations = st.one_of(
    st.builds(Toleration, label_keys, st.sampled_from(["", "Equal"]), label_values, _effects),
    st.builds(Toleration, st.just("") | label_keys, st.just("Exists"), st.just(""), _effects),
    st.builds(
        Toleration,
        label_keys,
        st.just("Equal"),
        label_values,
        st.just("NoExecute"),
        st.integers(0, 10_000),
    ),
)

_arguments = st.lists(texts, max_size=3).map(tuple)
containers = st.builds(
    ContainerPredictor,
    _matching(r"[a-z0-9]+(/[a-z0-9]+)?(:[a-z0-9.]+)?", _LOWER + "/:.", 30),
    _arguments,
    _arguments,
    st.integers(0, 65535),
)
models = st.builds(
    ModelPredictor,
    st.builds(
        ModelFormat, st.sampled_from(["sklearn", "xgboost", "mine"]), st.sampled_from(["", "1"])
    ),
    st.sampled_from(["", "gs://bucket/model", "s3://b/m", "pvc://claim/dir", "odd://x"]),
    st.just("") | object_names,
    st.sampled_from(["", "v1", "v2", "grpc-v1", "grpc-v2"]),
    _arguments,
)


_some_names = st.lists(variable_names, max_size=6, unique=True)


@st.composite
def environments(
    draw: st.DrawFn,
) -> tuple[Mapping[str, str], Mapping[str, SecretKeyRef]]:
    """env and secret_env, no name in both."""
    chosen = draw(_some_names)
    split = draw(st.integers(0, len(chosen)))
    env = {name: draw(texts) for name in chosen[:split]}
    return env, {name: draw(secret_references) for name in chosen[split:]}


_environments, _resources, _scalings = environments(), resources(), scalings()
_every_predictor = containers | models
_accounts = st.just("") | object_names
_pull_policies = st.sampled_from(["", "Always", "IfNotPresent", "Never"])
_modes = st.sampled_from(["", "Standard", "RawDeployment"])
_node_selectors = st.dictionaries(label_keys, label_values, max_size=3)
_some_tolerations = st.lists(tolerations, max_size=3).map(tuple)
_pod_counts = st.sampled_from(["", "1", "3", "25%", "100%"])
_rollout_strategies = (
    st.none()
    | st.just(RolloutStrategy(RECREATE))
    | st.builds(RolloutStrategy, st.just(ROLLING), _pod_counts, _pod_counts)
)
_timeouts = st.none() | st.integers(1, 10_000).map(lambda s: timedelta(seconds=s))


@st.composite
def specs(
    draw: st.DrawFn, predictors: st.SearchStrategy[ServingPredictor] = _every_predictor
) -> InferenceServiceSpec:
    """Specs of every kind for the mode Standard, quantities in whatever form."""
    env, secret_env = draw(_environments)
    return InferenceServiceSpec(
        predictor=draw(predictors),
        env=env,
        secret_env=secret_env,
        resources=draw(_resources),
        scaling=draw(_scalings),
        service_account=draw(_accounts),
        image_pull_policy=draw(_pull_policies),
        deployment_mode=draw(_modes),
        node_selector=draw(_node_selectors),
        tolerations=draw(_some_tolerations),
        request_timeout=draw(_timeouts),
        rollout_strategy=draw(_rollout_strategies),
        ready_timeout=draw(_timeouts),
    )


_specs = specs()
_perhaps_request_ids = st.just("") | request_ids


@st.composite
def deploys(draw: st.DrawFn) -> Deploy:
    """Deploys with a whole spec."""
    return Deploy(
        key=draw(keys),
        spec=draw(_specs),
        labels=draw(labels),
        annotations=draw(annotations),
        request_id=draw(_perhaps_request_ids),
        validate_only=draw(_either),
        restart=draw(_either),
        force=draw(_either),
        create_only=draw(_either),
    )

"""Whatever a caller may rightly ask for: every value here passes the door's checks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from hypothesis import strategies as st

from server.domain.kubernetes.quantities import value
from server.domain.service.commands import STOP_ANNOTATION, Deploy
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    ServingPredictor,
    Toleration,
)

# No NUL, which no process can be given, and no surrogates, which no message can carry.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)

names = st.from_regex(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
namespaces = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
keys = st.builds(ServiceKey, namespaces, names)
request_ids = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)

object_names = st.from_regex(
    r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?)?", fullmatch=True
)
label_values = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?)?", fullmatch=True)
_plain_keys = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
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

variable_names = st.from_regex(r"[A-Z_][-._A-Z0-9a-z]{0,15}", fullmatch=True).filter(
    lambda name: name not in ("PYTHONPATH", "PROTOCOL", "STORAGE_URI")
)
secret_references = st.builds(
    SecretKeyRef, object_names, st.from_regex(r"[-_a-zA-Z0-9][-._a-zA-Z0-9]{0,15}", fullmatch=True)
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


@st.composite
def resources(draw: st.DrawFn) -> Resources:
    """Requests, limits, both or none; devices in equal and whole numbers."""
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for name in draw(st.sets(st.sampled_from(["cpu", "memory", "ephemeral-storage"]))):
        low, high = sorted(draw(st.tuples(quantities, quantities)), key=value)
        shape = draw(st.sampled_from(["request", "limit", "both"]))
        requests |= {name: low} if shape != "limit" else {}
        limits |= {name: high} if shape != "request" else {}
    for name in draw(st.sets(st.sampled_from(["nvidia.com/gpu", "example.com/fpga"]))):
        limits[name] = str(draw(st.integers(0, 8)))
        requests |= {name: limits[name]} if draw(st.booleans()) else {}
    return Resources(requests, limits)


@st.composite
def scalings(draw: st.DrawFn) -> Scaling:
    """For the mode Standard."""
    low = draw(st.none() | st.integers(0, 100))
    high = draw(st.none() | st.integers(max(1, low or 1), 200))
    target = draw(st.none() | st.integers(1, 100))
    return Scaling(low, high, target, draw(st.sampled_from(["", "cpu", "memory"])))


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
    st.from_regex(r"[a-z0-9]{1,10}(/[a-z0-9]{1,10})?(:[a-z0-9.]{1,8})?", fullmatch=True),
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


@st.composite
def environments(
    draw: st.DrawFn,
) -> tuple[Mapping[str, str], Mapping[str, SecretKeyRef]]:
    """env and secret_env, no name in both."""
    chosen = draw(st.lists(variable_names, max_size=6, unique=True))
    split = draw(st.integers(0, len(chosen)))
    env = {name: draw(texts) for name in chosen[:split]}
    return env, {name: draw(secret_references) for name in chosen[split:]}


@st.composite
def specs(
    draw: st.DrawFn, predictors: st.SearchStrategy[ServingPredictor] = containers | models
) -> InferenceServiceSpec:
    """Specs of every kind for the mode Standard, quantities in whatever form."""
    env, secret_env = draw(environments())
    return InferenceServiceSpec(
        predictor=draw(predictors),
        env=env,
        secret_env=secret_env,
        resources=draw(resources()),
        scaling=draw(scalings()),
        service_account=draw(st.just("") | object_names),
        image_pull_policy=draw(st.sampled_from(["", "Always", "IfNotPresent", "Never"])),
        deployment_mode=draw(st.sampled_from(["", "Standard", "RawDeployment"])),
        node_selector=draw(st.dictionaries(label_keys, label_values, max_size=3)),
        tolerations=draw(st.lists(tolerations, max_size=3).map(tuple)),
        request_timeout=draw(
            st.none() | st.integers(1, 10_000).map(lambda s: timedelta(seconds=s))
        ),
    )


@st.composite
def deploys(draw: st.DrawFn) -> Deploy:
    """Deploys with a whole spec."""
    return Deploy(
        key=draw(keys),
        spec=draw(specs()),
        labels=draw(labels),
        annotations=draw(annotations),
        request_id=draw(st.just("") | request_ids),
        validate_only=draw(st.booleans()),
        restart=draw(st.booleans()),
        force=draw(st.booleans()),
        create_only=draw(st.booleans()),
    )

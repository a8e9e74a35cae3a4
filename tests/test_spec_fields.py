"""Every field of a spec goes all the way, on every cluster; CONTRIBUTING.md says how one is added.

A field that has no sample here fails, and so does a sample that is lost on its way.
"""

from __future__ import annotations

import asyncio
import errno
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from modelservice.v1 import inference_service_pb2 as pb

from lab.port_blocks import own_block
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import parse_object, service_of
from server.adapters.local.cluster import LocalCluster, local_cluster
from server.adapters.local.proxy.port_allocator import PortAllocator
from server.adapters.local.proxy.reverse_proxy import Upstream
from server.adapters.local.rollouts import model_server_run
from server.adapters.local.rollouts.load_limiter import LoadLimiter
from server.adapters.local.rollouts.model_server_run import ModelServerConfig
from server.adapters.local.runtimes.runtimes import Runtimes
from server.adapters.local.state_dir import open_state_dir
from server.adapters.local.timeouts import Timeouts
from server.adapters.sql.rows import kind_of, row_of
from server.api.specs import options_message, options_of, spec_message, spec_of
from server.domain.errors import UnsupportedByCluster
from server.domain.registry.environment_defaults import with_defaults
from server.domain.registry.registered import EnvironmentKey, ServingEnvironment
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.canonical_spec import canonical_options
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Predictor,
    RegisteredModelPredictor,
    Resources,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    ServingOptions,
    Toleration,
)
from server.domain.service.spec_validation import option_violations, spec_violations
from tests.adapters.kserve.storing import applied

LOCAL = Path("docs/local.md")
TIMEOUTS = Timeouts()
LARGE = "x" * 2**20
KEY = ServiceKey("model-serving", "iris")
PREDICTORS: Mapping[str, type] = {
    "container": ContainerPredictor,
    "model": ModelPredictor,
    "registered_model": RegisteredModelPredictor,
}

SERVED = ModelPredictor(ModelFormat("plain"), "file:///models/1")
CONTAINER = InferenceServiceSpec(ContainerPredictor("image:1"))
MODEL = InferenceServiceSpec(SERVED)
REGISTERED = InferenceServiceSpec(
    RegisteredModelPredictor("plants", "iris", "staging", resolved=SERVED)
)


def container(**changed: Any) -> InferenceServiceSpec:
    return replace(CONTAINER, predictor=replace(CONTAINER.predictor, **changed))


def model(**changed: Any) -> InferenceServiceSpec:
    return replace(MODEL, predictor=replace(SERVED, **changed))


def registered(**changed: Any) -> InferenceServiceSpec:
    return replace(REGISTERED, predictor=replace(REGISTERED.predictor, **changed))


def tolerating(*words: Any) -> InferenceServiceSpec:
    return replace(MODEL, tolerations=(Toleration(*words),))


SECRET = replace(MODEL, secret_env={"TOKEN": SecretKeyRef("hub", "token")})

# By each field's path, a spec in which it is not as it is by default; else one of those above.
SAMPLES: Mapping[str, InferenceServiceSpec] = {
    "spec.container.image": container(image="image:2"),
    "spec.container.command": container(command=("serve",)),
    "spec.container.args": container(args=("--fast",)),
    "spec.container.port": container(port=9000),
    "spec.model.format.name": model(format=ModelFormat("other")),
    "spec.model.format.version": model(format=ModelFormat("plain", "2")),
    "spec.model.storage_uri": model(storage_uri="file:///models/2"),
    "spec.model.runtime": model(runtime="second"),
    "spec.model.protocol_version": model(protocol_version="v2"),
    "spec.model.args": model(args=("--fast",)),
    "spec.registered_model.project": registered(project="animals"),
    "spec.registered_model.model": registered(model="lily"),
    "spec.registered_model.environment": registered(environment="production"),
    "spec.registered_model.version": registered(version="2"),
    "spec.registered_model.resolved": registered(resolved=ContainerPredictor("image:2")),
    "spec.env": replace(MODEL, env={"A": "1"}),
    "spec.secret_env.secret": SECRET,
    "spec.secret_env.key": SECRET,
    "spec.resources.requests": replace(MODEL, resources=Resources({"cpu": "1"}, {})),
    "spec.resources.limits": replace(MODEL, resources=Resources({}, {"memory": "1Gi"})),
    "spec.scaling.min_replicas": replace(MODEL, scaling=Scaling(min_replicas=2)),
    "spec.scaling.max_replicas": replace(MODEL, scaling=Scaling(max_replicas=3)),
    "spec.scaling.target": replace(MODEL, scaling=Scaling(target=70)),
    "spec.scaling.metric": replace(MODEL, scaling=Scaling(metric="cpu")),
    "spec.service_account": replace(MODEL, service_account="reader"),
    "spec.image_pull_policy": replace(MODEL, image_pull_policy="Always"),
    "spec.deployment_mode": replace(MODEL, deployment_mode="Standard"),
    "spec.node_selector": replace(MODEL, node_selector={"zone": "a"}),
    "spec.tolerations.key": tolerating("gpu", "Exists"),
    "spec.tolerations.operator": tolerating("gpu", "Exists"),
    "spec.tolerations.value": tolerating("gpu", "Equal", "yes"),
    "spec.tolerations.effect": tolerating("gpu", "Exists", "", "NoSchedule"),
    "spec.tolerations.toleration_seconds": tolerating("gpu", "Exists", "", "NoExecute", 60),
    "spec.request_timeout": replace(MODEL, request_timeout=timedelta(seconds=300)),
}
OPTIONS = [path for path in SAMPLES if path.split(".")[1] not in PREDICTORS]
# The registry's names are not the cluster's, which runs what they are resolved to.
OF_THE_CLUSTER = [path for path in SAMPLES if path.split(".")[1] != "registered_model"]


def domain_paths(kind: type, path: str = "spec") -> Iterator[str]:
    """The paths of a dataclass' fields, of those that are dataclasses the paths in them."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.name == "predictor":
            for name, predictor in PREDICTORS.items():
                yield from domain_paths(predictor, f"{path}.{name}")
            continue
        nested = [k for k in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(k)]
        if len(nested) == 1:
            yield from domain_paths(nested[0], f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}"


def proto_paths(message: Descriptor, path: str = "spec") -> Iterator[str]:
    """The same of a message."""
    for field in message.fields:
        kind = _value_of(field).message_type
        if field.name.startswith("resolved_"):
            yield f"{path}.resolved"
        elif kind and kind.file == pb.DESCRIPTOR:
            yield from proto_paths(kind, f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}"


def _value_of(field: FieldDescriptor) -> FieldDescriptor:
    """The values of a map; else the field itself."""
    kind = field.message_type
    return kind.fields_by_name["value"] if kind and kind.GetOptions().map_entry else field


def asked(thing: Any, path: str = "spec") -> Iterator[tuple[str, Any]]:
    """The values of a spec's fields by their paths."""
    for field in fields(thing):
        value = getattr(thing, field.name)
        items = value.values() if isinstance(value, Mapping) else value
        nested = list(items) if isinstance(value, Mapping | tuple) else [value]
        if field.name == "predictor":
            [name] = [name for name, kind in PREDICTORS.items() if isinstance(value, kind)]
            yield from asked(value, f"{path}.{name}")
        elif field.name != "resolved" and nested and all(map(is_dataclass, nested)):
            for item in nested:
                yield from asked(item, f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}", value


def base_of(path: str) -> InferenceServiceSpec:
    """The spec that the field's sample was made from."""
    kind = path.split(".")[1]
    return {"container": CONTAINER, "registered_model": REGISTERED}.get(kind, MODEL)


def options_in(spec: InferenceServiceSpec) -> ServingOptions:
    return ServingOptions(**{f.name: getattr(spec, f.name) for f in fields(ServingOptions)})


def test_every_field_of_the_domains_spec_has_a_sample() -> None:
    assert set(PREDICTORS.values()) == set(get_args(Predictor))
    assert set(domain_paths(InferenceServiceSpec)) == set(SAMPLES)


def test_every_field_of_the_protos_spec_has_a_sample() -> None:
    assert set(proto_paths(pb.InferenceServiceSpec.DESCRIPTOR)) == set(SAMPLES)


@pytest.mark.parametrize("path", SAMPLES)
def test_a_sample_asks_for_its_field_and_is_valid(path: str) -> None:
    sample = SAMPLES[path]
    value = dict(asked(sample))[path]
    assert value
    assert value != dict(asked(base_of(path))).get(path)
    assert list(spec_violations(sample, {})) == []
    assert canonical_options(sample) == sample


def enlarged(thing: Any, path: list[str]) -> Any:
    """The same with a text of a MiB in the field at the path; None where that has no text."""
    name, *further = path
    value = getattr(thing, name)
    items = value.values() if isinstance(value, Mapping) else value
    many = isinstance(value, Mapping | tuple)
    large = [enlarged(i, further) if further else LARGE for i in (items if many else [value])]
    if None in large or isinstance(value, int | timedelta):
        return None
    if isinstance(value, Mapping):
        large = [dict(zip(value, large, strict=True))]
    return replace(thing, **{name: tuple(large) if isinstance(value, tuple) else large[0]})


@pytest.mark.parametrize("path", [p for p in SAMPLES if not p.endswith(".resolved")])
def test_a_field_takes_no_text_of_any_size(path: str) -> None:
    kind, *further = path.split(".")[1:]
    large = enlarged(SAMPLES[path], ["predictor" if kind in PREDICTORS else kind, *further])
    assert large is None or list(spec_violations(large, {})), f"check the size of {path}"


@pytest.mark.parametrize("path", SAMPLES)
def test_a_field_is_in_requests_and_in_answers(path: str) -> None:
    sample = SAMPLES[path]
    wire = spec_message(sample).SerializeToString()
    read = spec_of(pb.InferenceServiceSpec.FromString(wire))
    if isinstance(sample.predictor, RegisteredModelPredictor):
        # What it is resolved to stands in answers alone.
        assert wire != spec_message(REGISTERED).SerializeToString()
        sample = replace(sample, predictor=replace(sample.predictor, resolved=None))
    assert read == sample


@pytest.mark.parametrize("path", SAMPLES)
def test_a_field_belongs_to_what_a_request_id_may_not_be_reused_across(path: str) -> None:
    assert Deploy(KEY, SAMPLES[path]).body_hash != Deploy(KEY, base_of(path)).body_hash


@pytest.mark.parametrize("path", SAMPLES)
def test_a_field_is_written_to_the_inference_service_and_read_back(path: str) -> None:
    obj = applied(DesiredObject(KEY, SAMPLES[path], deployment_id="deployment-1"))
    assert service_of(obj, InferenceServiceStatus(State.READY)).spec == SAMPLES[path]
    assert parse_object(obj).unsupported == []


@pytest.mark.parametrize("path", OPTIONS)
def test_a_field_is_an_environments_default(path: str) -> None:
    defaults = options_in(SAMPLES[path])
    assert list(option_violations(defaults)) == []
    message = options_message(defaults)
    assert options_of(message, "environment.defaults") == defaults
    now = datetime.now(UTC)
    environment = ServingEnvironment(
        EnvironmentKey("plants", "staging"), "id", "staging", now, now, defaults
    )
    assert kind_of(environment).read(row_of(environment)) == environment
    assert with_defaults(MODEL, defaults) == SAMPLES[path]


RUNTIMES = """
[[runtime]]
name = "first"
protocols = ["v1"]
command = ["first", "{model}"]
ready = "/ready"
[[runtime.formats]]
name = "plain"
versions = ["1"]
[[runtime]]
name = "second"
protocols = ["v2"]
command = ["second", "{model}"]
ready = "/ready"
[[runtime.formats]]
name = "plain"
versions = ["2"]
[[runtime.formats]]
name = "other"
"""
# What the local cluster takes and does not enforce, as docs/local.md says.
NOT_ENFORCED = (
    "spec.resources.requests",
    "spec.resources.limits",
    "spec.image_pull_policy",
    "spec.scaling.max_replicas",
    "spec.scaling.target",
    "spec.scaling.metric",
)


class StartedProcesses:
    """What model servers would have been run with: the source of the model, and then the command,
    its environment and the time that a request may take."""

    def __init__(self) -> None:
        self._source = ""
        self._timeout: timedelta | None = None
        self.found: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def fetch(self, uri: str, into: Path, tell: Any) -> Path:
        self._source = uri
        return Path("/model")

    def upstream(self, port: int, timeout: timedelta | None) -> Upstream:
        self._timeout = timeout
        return Upstream(port, timeout)

    async def start(self, command: Any, folder: Path, environment: Mapping[str, str]) -> NoReturn:
        self.found.put_nowait((self._source, tuple(command), dict(environment), self._timeout))
        raise OSError(errno.ENOMEM, "it is enough to know")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> StartedProcesses:
    started = StartedProcesses()
    monkeypatch.setattr(model_server_run.ModelProcess, "start", started.start)
    monkeypatch.setattr(model_server_run, "Upstream", started.upstream)
    return started


@pytest.fixture
async def local(started: StartedProcesses, tmp_path: Path) -> AsyncIterator[LocalCluster]:
    runtimes = tmp_path / "runtimes.toml"
    runtimes.write_text(RUNTIMES)
    with open_state_dir(tmp_path / "state") as state:
        config = ModelServerConfig(
            runtimes=Runtimes.load(runtimes),
            python=Path(sys.executable),
            fetch=started.fetch,
            ports=PortAllocator(own_block().ports),
            load_limiter=LoadLimiter(1, TIMEOUTS.load_slot),
            timeouts=TIMEOUTS,
            environment={},
            owner=state.owner,
        )
        async with local_cluster(state, config) as cluster:
            yield cluster


async def refusal_of(cluster: LocalCluster, deploy: Deploy) -> str:
    """Deploy, and say why it was refused; empty where it was not."""
    try:
        await cluster.apply(deploy)
    except UnsupportedByCluster as e:
        return e.message
    return ""


async def test_the_local_cluster_enforces_a_field_or_refuses_it_by_name_or_is_documented_not_to(
    local: LocalCluster, started: StartedProcesses
) -> None:
    [documented] = re.findall(r"\*\*Accepted and not enforced\*\*: ([^:]+):", LOCAL.read_text())
    await local.apply(Deploy(KEY, MODEL))
    without = await started.found.get()
    for number, path in enumerate(OF_THE_CLUSTER):
        key, top = ServiceKey("model-serving", f"iris-{number}"), path.split(".")[1]
        if refusal := await refusal_of(local, Deploy(key, SAMPLES[path])):
            assert f"spec.{top}" in refusal, path
            assert path not in NOT_ENFORCED
            continue
        read = await local.read(key)
        assert read
        assert read.spec == SAMPLES[path]
        enforced = await started.found.get() != without
        assert enforced is not (path in NOT_ENFORCED), path
        assert enforced or top in documented, path
        assert enforced or top == "resources" or path.split(".")[-1] in documented, path

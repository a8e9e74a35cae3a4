"""Every field of a spec goes all the way, on every cluster; CONTRIBUTING.md says how one is added.

A field that has no sample here fails, and so does a sample that is lost on its way. The message
names the file to change.
"""

from __future__ import annotations

import asyncio
import errno
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import Phase, given, settings
from modelservice.v1 import inference_service_pb2 as pb

from lab.port_blocks import own_block
from server.adapters.kserve.manifests.manifest import (
    DesiredObject,
    predictor_of,
    without_scaling,
)
from server.adapters.kserve.manifests.object_parser import parse_object, service_of
from server.adapters.kserve.names import CONTAINER as CONTAINER_NAME
from server.adapters.kserve.status.applied_template import STORAGE_URI_ANNOTATION, is_applied
from server.adapters.kserve.status.components import component_specs
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
    RECREATE,
    ROLLING,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Predictor,
    RegisteredModelPredictor,
    Resources,
    RolloutStrategy,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    ServingOptions,
    Toleration,
)
from server.domain.service.spec_validation import option_violations, spec_violations
from tests.adapters.kserve.storing import applied, manifest_of
from tests.contracts.world import OF_KUBERNETES
from tests.strategies import specs

LOCAL = Path("docs/local.md")
PROTO = Path("proto/modelservice/v1/inference_service.proto")
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


def rolling(**limits: str) -> InferenceServiceSpec:
    return replace(MODEL, rollout_strategy=RolloutStrategy(ROLLING, **limits))


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
    "spec.ready_timeout": replace(MODEL, ready_timeout=timedelta(seconds=900)),
    "spec.rollout_strategy.type": replace(MODEL, rollout_strategy=RolloutStrategy(RECREATE)),
    "spec.rollout_strategy.max_surge": rolling(max_surge="1"),
    "spec.rollout_strategy.max_unavailable": rolling(max_unavailable="50%"),
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


def set_in(message: Message, path: str = "spec") -> Iterator[str]:
    """The paths of the fields that a message has."""
    for field, value in message.ListFields():
        kind = _value_of(field).message_type
        items = [value]
        if field.is_repeated:
            items = list(value.values() if isinstance(value, Mapping) else value)
        if field.name.startswith("resolved_"):
            yield f"{path}.resolved"
        elif kind and kind.file == pb.DESCRIPTOR:
            for item in items:
                yield from set_in(item, f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}"


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


def _check_samples(paths: set[str], place: str) -> None:
    without, unknown = sorted(paths - set(SAMPLES)), sorted(set(SAMPLES) - paths)
    assert not without, f"add a sample of {without} to SAMPLES in tests/test_spec_fields.py"
    assert not unknown, f"add {unknown} to {place}"


def test_every_field_of_the_domains_spec_has_a_sample() -> None:
    assert set(PREDICTORS.values()) == set(get_args(Predictor))
    in_the_domain = set(domain_paths(InferenceServiceSpec))
    _check_samples(in_the_domain, "server/domain/service/inference_service.py")


def test_every_field_of_the_protos_spec_has_a_sample() -> None:
    in_the_protos = set(proto_paths(pb.InferenceServiceSpec.DESCRIPTOR))
    _check_samples(in_the_protos, f"{PROTO}, and run make stubs")


def test_random_specs_have_every_field() -> None:
    seen: set[str] = set()

    @settings(max_examples=300, derandomize=True, database=None, phases=[Phase.generate])
    @given(specs())
    def draw(spec: InferenceServiceSpec) -> None:
        seen.update(path for path, value in asked(spec) if value)

    draw()
    missing = sorted(set(OF_THE_CLUSTER) - seen)
    assert not missing, f"draw {missing} in `specs` of tests/strategies.py"


@pytest.mark.parametrize("path", SAMPLES)
def test_a_sample_asks_for_its_field_and_is_valid(path: str) -> None:
    sample = SAMPLES[path]
    value = dict(asked(sample))[path]
    assert value
    assert value != dict(asked(base_of(path))).get(path)
    assert list(spec_violations(sample, {})) == []
    assert canonical_options(sample) == sample


def changed(path: str, change: Callable[[Any], Any]) -> Any:
    """The field's sample with the field's value, or each of its items, changed; None if one is."""
    kind, *further = path.split(".")[1:]
    return _changed(SAMPLES[path], ["predictor" if kind in PREDICTORS else kind, *further], change)


def _changed(thing: Any, path: list[str], change: Callable[[Any], Any]) -> Any:
    name, *further = path
    value = getattr(thing, name)
    many = isinstance(value, Mapping | tuple)
    items = list(value.values() if isinstance(value, Mapping) else value) if many else [value]
    new = [_changed(i, further, change) if further else change(i) for i in items]
    if None in new:
        return None
    if isinstance(value, Mapping):
        new = [dict(zip(value, new, strict=True))]
    return replace(thing, **{name: tuple(new) if isinstance(value, tuple) else new[0]})


def enlarged(value: Any) -> Any:
    """A text of a MiB; None where the value is no text."""
    return LARGE if isinstance(value, str) else None


def other(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case str():
            return f"{value}x"
        case timedelta():
            return 2 * value
        case int():
            return value + 1
    return SERVED


@pytest.mark.parametrize("path", [p for p in SAMPLES if not p.endswith(".resolved")])
def test_a_field_takes_no_text_of_any_size(path: str) -> None:
    large = changed(path, enlarged)
    assert large is None or list(spec_violations(large, {})), (
        f"check the size of {path} in server/domain/service/spec_validation.py"
    )


@pytest.mark.parametrize("path", SAMPLES)
def test_a_field_is_in_requests_and_in_answers(path: str) -> None:
    sample = SAMPLES[path]
    message = spec_message(sample)
    assert path in set(set_in(message)), (
        f"server/api/specs.py: the conversion of answers does not set {path}"
    )
    if isinstance(sample.predictor, RegisteredModelPredictor):
        # Requests set no `resolved`.
        sample = replace(sample, predictor=replace(sample.predictor, resolved=None))
    read = spec_of(pb.InferenceServiceSpec.FromString(message.SerializeToString()))
    assert dict(asked(read)).get(path) == dict(asked(sample))[path], (
        f"server/api/specs.py: the conversion of requests does not set {path}"
    )
    assert read == sample


@pytest.mark.parametrize("path", SAMPLES)
def test_a_field_belongs_to_what_a_request_id_may_not_be_reused_across(path: str) -> None:
    assert Deploy(KEY, SAMPLES[path]).body_hash != Deploy(KEY, base_of(path)).body_hash, (
        f"server/domain/service/commands.py: body_hash leaves {path} out"
    )


@pytest.mark.parametrize("path", SAMPLES)
def test_a_field_is_written_to_the_inference_service_and_read_back(path: str) -> None:
    sample = SAMPLES[path]
    of_the_registry = path not in OF_THE_CLUSTER
    writer, parser = (
        ["annotations.py"] * 2 if of_the_registry else ["manifest.py", "predictor_parser.py"]
    )
    desired = DesiredObject(KEY, sample, deployment_id="deployment-1")
    assert manifest_of(desired) != manifest_of(replace(desired, spec=changed(path, other))), (
        f"server/adapters/kserve/manifests/{writer} does not write {path}"
    )
    obj = applied(desired)
    read = service_of(obj, InferenceServiceStatus(State.READY)).spec
    assert dict(asked(read)).get(path) == dict(asked(sample))[path], (
        f"server/adapters/kserve/manifests/{parser} does not read {path}"
    )
    assert read == sample
    assert parse_object(obj).unsupported == [], (
        f"server/adapters/kserve/manifests/{parser} does not know what is written of {path}"
    )


# Fields that reach the pods and are not compared with the pod template, and why.
NOT_COMPARED = {
    "spec.model.format.name": "KServe selects the runtime by it, and writes it nowhere",
    "spec.model.format.version": "KServe selects the runtime by it, and writes it nowhere",
    "spec.model.protocol_version": "KServe selects the runtime by it, and writes it nowhere",
    "spec.request_timeout": "it belongs to the ingress in Standard mode",
}


def template_of(predictor: Mapping[str, Any]) -> dict[str, Any]:
    """A pod template as KServe makes it of a predictor."""
    model: dict[str, Any] = predictor.get("model", {})
    [container] = predictor.get("containers", [{**model, "name": CONTAINER_NAME}])
    return {
        "metadata": {"annotations": {STORAGE_URI_ANNOTATION: model.get("storageUri")}},
        "spec": {**predictor, "containers": [container]},
    }


def runs(predictor: Mapping[str, Any], template: Mapping[str, Any], runtime: str) -> bool:
    """Whether the template counts as made from the predictor, which has no rollout hash."""
    status = {"clusterServingRuntimeName": runtime}
    service = {"metadata": {"name": "iris"}, "spec": {"predictor": predictor}, "status": status}
    [component] = component_specs(service)
    return is_applied(service, component, dict(template))


@pytest.mark.parametrize("path", OF_THE_CLUSTER)
def test_a_field_that_another_manager_edits_is_not_applied_before_the_template_has_it(
    path: str,
) -> None:
    before, after = predictor_of(base_of(path)), predictor_of(SAMPLES[path])
    if without_scaling(before) == without_scaling(after):
        assert path not in NOT_COMPARED, f"{path} does not reach the pods"
        return
    assert runs(before, template_of(before), "first")
    assert runs(after, template_of(after), after.get("model", {}).get("runtime", "first"))
    if runs(after, template_of(before), "first"):
        assert path in NOT_COMPARED, (
            f"compare {path} in server/adapters/kserve/status/applied_template.py (_POD_FIELDS or"
            " _CONTAINER_FIELDS); or name it in NOT_COMPARED of tests/test_spec_fields.py; or, if"
            " it does not reach the pods, in SCALING_FIELDS of server/adapters/kserve/names.py"
        )
    else:
        assert path not in NOT_COMPARED, f"{path} is compared: take it out of NOT_COMPARED"


@pytest.mark.parametrize("path", OPTIONS)
def test_a_field_is_an_environments_default(path: str) -> None:
    defaults = options_in(SAMPLES[path])
    assert list(option_violations(defaults)) == []
    message = options_message(defaults)
    assert options_of(message, "environment.defaults") == defaults, (
        f"server/api/specs.py does not convert {path} in both directions"
    )
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
    "spec.rollout_strategy.max_surge",
    "spec.rollout_strategy.max_unavailable",
)
# What decides about a rollout, and not about the process that it starts.
OF_THE_ROLLOUT = {
    "spec.rollout_strategy.type": "tests/adapters/local/test_rollouts.py",
    "spec.ready_timeout": "tests/adapters/local/test_ready_timeout.py",
}
# Refused for some values only; documents say it in these words.
SAID_OTHERWISE = {"spec.scaling.min_replicas": "more than one replica"}


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

    def start(self, command: Any, folder: Path, environment: Mapping[str, str]) -> NoReturn:
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


async def refusal_of(cluster: LocalCluster, deploy: Deploy) -> tuple[str, set[str]]:
    """Deploy; why it was refused, empty where it was not, and the fields that it warns of."""
    try:
        applied = await cluster.apply(deploy)
    except UnsupportedByCluster as e:
        return e.message, set()
    return "", {warning.field for warning in applied.warnings}


async def test_the_local_cluster_enforces_a_field_or_refuses_it_by_name_or_is_documented_not_to(
    local: LocalCluster, started: StartedProcesses
) -> None:
    [documented] = re.findall(r"\*\*Accepted and not enforced\*\*: ([^:]+):", LOCAL.read_text())
    [refused] = re.findall(r"\*\*Refused\*\*, ([^.]+)\.", LOCAL.read_text())
    proto = re.sub(r"\s+// ?", " ", PROTO.read_text())
    [commented] = re.findall(
        r"these are FAILED_PRECONDITION ([^.]+)\.\nmessage InferenceServiceSpec", proto
    )
    await local.apply(Deploy(KEY, MODEL))
    without = await started.found.get()
    for number, path in enumerate(OF_THE_CLUSTER):
        key, top = ServiceKey("model-serving", f"iris-{number}"), path.split(".")[1]
        refusal, warned_of = await refusal_of(local, Deploy(key, SAMPLES[path]))
        if refusal:
            assert f"spec.{top}" in refusal, (
                f"server/adapters/local/unsupported.py: the message does not name {path}"
            )
            assert path not in NOT_ENFORCED, f"{path} is refused: take it out of NOT_ENFORCED"
            named = SAID_OTHERWISE.get(path, top)
            assert named in refused, f'name {named} under "Refused" in {LOCAL}'
            assert named in commented, (
                f"name {named} in the comment of InferenceServiceSpec, {PROTO}"
            )
            assert path not in OPTIONS or path in SAID_OTHERWISE or top in OF_KUBERNETES, (
                f"add {top} to OF_KUBERNETES in tests/contracts/world.py"
            )
            continue
        assert top not in OF_KUBERNETES, (
            f"refuse {path} in server/adapters/local/unsupported.py, or take it out of"
            " OF_KUBERNETES in tests/contracts/world.py"
        )
        read = await local.read(key)
        assert read
        assert read.spec == SAMPLES[path]
        if await started.found.get() != without:
            assert path not in NOT_ENFORCED, f"{path} is applied: take it out of NOT_ENFORCED"
            assert not warned_of
            continue
        if path in OF_THE_ROLLOUT:
            assert not warned_of
            assert path.split(".")[1] in Path(OF_THE_ROLLOUT[path]).read_text()
            continue
        assert path in NOT_ENFORCED, (
            f"apply {path}, or refuse it in server/adapters/local/unsupported.py, or name it in"
            f' NOT_ENFORCED of tests/test_spec_fields.py and {LOCAL}, "Accepted and not enforced"'
        )
        assert any(path.startswith(field) for field in warned_of), (
            f"warn of {path} in `unenforced` of server/adapters/local/unsupported.py"
        )
        for word in {top, top if top == "resources" else path.split(".")[-1]}:
            assert word in documented, f'name {word} under "Accepted and not enforced" in {LOCAL}'

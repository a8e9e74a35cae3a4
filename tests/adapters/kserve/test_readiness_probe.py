from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.manifests.readiness_probe import TIMING, Probe, probe_for
from server.adapters.kserve.manifests.serving_runtimes import Runtimes, candidates
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    SecretKeyRef,
)
from tests import strategies
from tests.adapters.kserve.runtimes import MLSERVER, SKLEARN, STOCK, clusters, runtime

V1 = "/v1/models/iris"
V2 = "/v2/models/iris/ready"
MLSERVER_NAME = "MLSERVER_MODEL_NAME"


def model(form: str = "sklearn", **fields: Any) -> InferenceServiceSpec:
    name, _, version = form.partition(":")
    fields = {"storage_uri": "gs://b/m", **fields}
    return InferenceServiceSpec(ModelPredictor(ModelFormat(name, version), **fields))


def container(*args: str, port: int = 0, **env: str) -> InferenceServiceSpec:
    return InferenceServiceSpec(ContainerPredictor("mine:1", args=args, port=port), env=env)


def probe_of(spec: InferenceServiceSpec, runtimes: Runtimes) -> Probe | None:
    serving = spec.serving
    found = candidates(serving, runtimes) if isinstance(serving, ModelPredictor) else []
    return probe_for("iris", spec, found)


def path(spec: InferenceServiceSpec, runtimes: Runtimes) -> str | None:
    probe = probe_of(spec, runtimes)
    return probe and probe["httpGet"]["path"]


def port(spec: InferenceServiceSpec, runtimes: Runtimes) -> int | None:
    probe = probe_of(spec, runtimes)
    return probe and probe["httpGet"]["port"]


def test_it_asks_every_5_s_and_lets_a_server_under_load_be_silent_for_half_a_minute() -> None:
    assert TIMING["periodSeconds"] == 5
    assert TIMING["periodSeconds"] * TIMING["failureThreshold"] == 30
    assert 1 < TIMING["timeoutSeconds"] <= TIMING["periodSeconds"]
    assert probe_of(model(), clusters(SKLEARN)) == {
        "httpGet": {"path": V1, "port": 8080},
        **TIMING,
    }


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        (model(), V1),
        (model(protocol_version="v2"), V2),
        (model("sklearn:1"), V1),
        (model("sklearn:7"), None),
        (model("huggingface"), V1),
        (model("huggingface", protocol_version="v2"), V2),
        (model("triton"), None),
        (model("vLLM"), None),
        (model("onnx"), None),
        (model(runtime="kserve-sklearnserver"), V1),
        (model(runtime="kserve-sklearnserver", protocol_version="v2"), V2),
        (model(runtime="kserve-sklearnserver", protocol_version="grpc-v2"), None),
        (model(runtime="kserve-mlserver"), V2),
        (model("huggingface", runtime="kserve-huggingfaceserver"), V1),
        (model("huggingface", runtime="kserve-huggingfaceserver-multinode"), None),
        (model(runtime="not-installed"), None),
    ],
    ids=lambda given: str(given.predictor) if isinstance(given, InferenceServiceSpec) else None,
)
def test_on_the_runtimes_that_kserve_ships(spec: InferenceServiceSpec, asked: str | None) -> None:
    assert path(spec, clusters(*STOCK)) == asked


@given(st.permutations(STOCK), st.sampled_from(["sklearn", "huggingface", "triton"]))
def test_the_order_of_the_runtimes_does_not_matter(runtimes: list[Any], form: str) -> None:
    assert path(model(form), clusters(*runtimes)) == path(model(form), clusters(*STOCK))


@given(strategies.specs(), st.lists(st.sampled_from(STOCK), unique_by=id))
def test_no_spec_makes_it_fail(spec: InferenceServiceSpec, runtimes: list[Any]) -> None:
    probe_of(spec, clusters(*runtimes))
    probe_of(spec, Runtimes())


@pytest.mark.parametrize(
    "other",
    [
        runtime("elsewhere", container={"ports": [{"containerPort": 9000}]}),
        runtime("unnamed", args=()),
        runtime("another", args=("--model_name=model",)),
        runtime("its-own", container={"readinessProbe": {"tcpSocket": {"port": 8080}}}),
    ],
    ids=lambda given: given["metadata"]["name"],
)
def test_where_candidates_disagree_there_is_none(other: dict[str, Any]) -> None:
    assert path(model(), clusters(SKLEARN, other)) is None
    assert path(model(), clusters(other, SKLEARN)) is None


@pytest.mark.parametrize(
    "never_taken",
    [
        runtime("disabled", args=(), disabled=True),
        runtime("for-many-models", args=(), multiModel=True),
        runtime("with-workers", args=(), workerSpec={"containers": []}),
        runtime("by-name-only", args=(), auto_select=False),
        runtime("of-another-format", args=(), formats=("xgboost",)),
        runtime("of-v2", args=(), protocols=("v2",)),
    ],
    ids=lambda given: given["metadata"]["name"],
)
def test_a_runtime_that_kserve_never_takes_has_no_say(never_taken: Any) -> None:
    assert path(model(), clusters(never_taken, SKLEARN)) == V1


def test_a_runtime_that_names_no_protocols_is_a_candidate_whose_protocol_is_not_known() -> None:
    silent = runtime("silent", protocols=())
    assert path(model(), clusters(SKLEARN, silent)) is None
    assert path(model(protocol_version="v2"), clusters(SKLEARN, silent)) == V2


def test_a_runtime_of_the_namespace_hides_the_clusters() -> None:
    mine = runtime(container={"ports": [{"containerPort": 9000}]})
    spec = model(runtime="kserve-sklearnserver")
    assert port(spec, Runtimes((mine,), (SKLEARN,))) == 9000
    assert port(spec, Runtimes((SKLEARN,), (mine,))) == 8080


def test_a_list_that_may_not_be_read_is_not_guessed() -> None:
    named = model(runtime="kserve-sklearnserver")
    assert path(named, Runtimes((SKLEARN,), None)) == V1
    assert path(named, Runtimes((), None)) is None
    assert path(named, Runtimes(None, (SKLEARN,))) is None
    assert path(model(), Runtimes((SKLEARN,), None)) is None
    assert path(model(), Runtimes(None, (SKLEARN,))) is None


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        ((), V1),
        (("--workers=2",), V1),
        (("--model_name=other",), "/v1/models/other"),
        (("--model_name", "other"), "/v1/models/other"),
        (("--model_name", "first", "--model_name=last"), "/v1/models/last"),
        (("--model_name={{ .Name }}-b",), "/v1/models/iris-b"),
        (("--model_name=meta/llama",), None),
        (("--model_name=a b",), None),
        (("--model_name={{.Labels.model}}",), None),
        (("--model_name=$(MODEL)",), None),
        (("--model_name=",), None),
        (("--model_name",), None),
    ],
    ids=str,
)
def test_the_last_argument_that_names_the_model_counts(
    args: tuple[str, ...], asked: str | None
) -> None:
    assert path(model(args=args), clusters(SKLEARN)) == asked


def test_an_mlserver_is_known_by_its_annotation_too() -> None:
    mine = runtime("mine", protocols=("v2",), args=(), server_type="mlserver")
    assert path(model(runtime="mine"), clusters(mine)) == V2
    renamed = runtime("kserve-mlserver", protocols=("v2",), args=(), server_type="other")
    assert path(model(runtime="kserve-mlserver"), clusters(renamed)) is None


def test_an_mlserver_serves_under_the_name_in_its_variables() -> None:
    spec = model(runtime="kserve-mlserver")
    named = replace(spec, env={MLSERVER_NAME: "iris-v7"})
    assert path(named, clusters(MLSERVER)) == "/v2/models/iris-v7/ready"
    secret = replace(spec, secret_env={MLSERVER_NAME: SecretKeyRef("a", "b")})
    assert path(secret, clusters(MLSERVER)) is None


def test_a_runtime_may_name_the_model_in_a_variable() -> None:
    variable = {"name": MLSERVER_NAME, "value": "{{.Name}}"}
    mine = runtime("mine", protocols=("v2",), args=(), container={"env": [variable]})
    assert path(model(runtime="mine"), clusters(mine)) == V2


@pytest.mark.parametrize("named", ["", "kserve-sklearnserver", "kserve-mlserver"])
def test_a_server_of_many_models_has_none_yet_that_could_be_asked_for(named: str) -> None:
    assert path(model(runtime=named, storage_uri=""), clusters(*STOCK)) is None


def test_a_huggingface_model_needs_no_storage() -> None:
    assert path(model("huggingface", storage_uri=""), clusters(*STOCK)) == V1


def test_openvino_is_asked_by_v2_since_its_v1_answers_while_it_loads() -> None:
    mine = runtime("kserve-openvino", formats=("openvino", "sklearn"), server_type="ovms")
    assert path(model("openvino"), clusters(mine)) == V2
    assert path(model("sklearn"), clusters(mine, SKLEARN)) == V1
    assert path(model("sklearn"), clusters(SKLEARN, mine)) == V1


def test_a_probe_of_the_runtimes_own_stays() -> None:
    own = runtime("own", container={"readinessProbe": {"exec": {"command": ["true"]}}})
    assert path(model(runtime="own"), clusters(own)) is None


@pytest.mark.parametrize(
    ("ports", "asked"),
    [
        ([], 8080),
        ([{"containerPort": 8888}, {"containerPort": 8001}], 8888),
        ([{"containerPort": 9000, "name": "h2c"}], None),
        ([{"containerPort": 9000, "name": "grpc-port"}], None),
    ],
    ids=str,
)
def test_it_asks_where_kserve_sends_requests(ports: list[Any], asked: int | None) -> None:
    assert port(model(), clusters(runtime(container={"ports": ports}))) == asked


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        (container(), None),
        (container("--model_name=other"), None),
        (container(PROTOCOL="v1"), None),
        (container(PROTOCOL="v2"), "/v2/health/ready"),
        (container("--model_name=other", PROTOCOL="v1"), "/v1/models/other"),
        (container("--model_name", "other", PROTOCOL="v2"), "/v2/models/other/ready"),
        (container("--model_name=$(WHO)", PROTOCOL="v2"), "/v2/health/ready"),
        (container("--model_name={{.Name}}", PROTOCOL="v2"), "/v2/health/ready"),
        (container("--model_name=meta/llama", PROTOCOL="v2"), "/v2/health/ready"),
        (container(PROTOCOL="v2", MLSERVER_MODEL_NAME="m"), "/v2/models/m/ready"),
    ],
    ids=str,
)
def test_a_container_is_probed_by_its_protocol(
    spec: InferenceServiceSpec, asked: str | None
) -> None:
    assert path(spec, Runtimes()) == asked


def test_a_container_is_asked_at_its_port() -> None:
    assert port(container(PROTOCOL="v2"), Runtimes()) == 8080
    assert port(container(PROTOCOL="v2", port=9000), Runtimes()) == 9000

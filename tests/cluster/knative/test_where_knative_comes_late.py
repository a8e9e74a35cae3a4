"""A cluster without Knative, to which it comes while the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from grpc import StatusCode
from kubernetes.client.exceptions import ApiException
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceServiceSpec
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, booted_lab, wait_until
from lab.knative import KnativeServing
from lab.knative.manifests import Source
from tests.cluster.asking import container, deploy, wait_ready
from tests.cluster.fixtures import lab_for_tests
from tests.cluster.serving import install, serving
from tests.refusals import refused

GROUP, KINDS = "/apis/serving.knative.dev/v1", {"services", "revisions"}
KNATIVE = container(deployment_mode="Knative")
STANDARD = container(deployment_mode="Standard")


class LateKnative:
    """A lab of its own that has lost its Knative Serving, until `bring`."""

    def __init__(self, lab: Lab, knative: KnativeServing) -> None:
        self.lab = lab
        self._knative = knative
        lab.kserve_manager.stop()
        knative.stop()
        for crd in Source().crds():
            lab.delete(crd)
        # KServe started while one of them is there would wait for all.
        wait_until(lambda: not self._kinds(), "Knative's kinds are gone")
        lab.kserve_manager.start()

    def bring(self) -> None:
        """As its installation does, after which KServe is started anew."""
        self.lab.apply_crds(Source().crds())
        wait_until(lambda: self._kinds() == KINDS, "Knative's kinds are there")
        self._knative.launch()
        for client in self._knative.clients:
            client.wait_ready()
        self.lab.kserve_manager.stop()
        self.lab.kserve_manager.start()

    def _kinds(self) -> set[str]:
        try:
            kinds = self.lab.get(GROUP)["resources"]
        except ApiException as error:
            if error.status != 404:
                raise
            return set()
        return KINDS & {kind["name"] for kind in kinds}


@pytest.fixture
def late_lab(
    knative_lab: Lab, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    yield from lab_for_tests(partial(booted_lab, mode="knative"), request, tmp_path_factory)


@pytest.fixture
def late(late_lab: Lab) -> LateKnative:
    assert late_lab.knative
    return LateKnative(late_lab, late_lab.knative)


@pytest.fixture
def its_stub(late: LateKnative, tmp_path: Path) -> Iterator[ModelServiceStub]:
    """Of a server that found no Knative when it started."""
    with serving(install(late.lab), tmp_path) as replicas:
        yield replicas.start().stub


def asked(spec: InferenceServiceSpec, *, validate_only: bool = False) -> pb.DeployRequest:
    return pb.DeployRequest(
        namespace="default", name="iris", spec=spec, validate_only=validate_only
    )


def test_knative_mode_is_refused_until_knative_is_there_and_then_works_without_a_restart(
    late: LateKnative, its_stub: ModelServiceStub
) -> None:
    # Of this cluster Knative is the default mode, which changes nothing about that.
    for spec in (KNATIVE, container()):
        for request in (asked(spec), asked(spec, validate_only=True)):
            told = refused(
                StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_BY_CLUSTER", its_stub.Deploy, request
            )
            assert "the cluster has no Knative Serving" in told.message
    plain = deploy(its_stub, "default", "plain", STANDARD)
    wait_ready(its_stub, "default", "plain", plain.rollout_id)

    late.bring()
    for number in (1, 2):
        answer = deploy(
            its_stub, "default", "iris", container(f"iris:{number}", deployment_mode="Knative")
        )
        ready = wait_ready(its_stub, "default", "iris", answer.rollout_id)
        assert ready.status.deployment_mode == "Knative"
        revision = f"iris-predictor-0000{number}"
        assert [t.revision for t in ready.status.components[0].traffic] == [revision]

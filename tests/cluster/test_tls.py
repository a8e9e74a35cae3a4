"""TLS as k8s/components/tls sets it, and as docs/operations.md shows it."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from lab.port_blocks import own_block
from tests.alone import alone
from tests.api.test_tls_document import make_certificate
from tests.patience import PATIENCE_SECONDS
from tests.serving import serving, settings
from tests.transcript import transcript

from .kubeconfigs import kubectl_program
from .serving import ROOT


@pytest.fixture
def built_kubectl() -> Path:
    return kubectl_program()


def rendered(kubectl: Path, overlay: str, folder: Path, *components: str) -> list[dict[str, Any]]:
    """What an overlay installs with further components."""
    k8s = os.path.relpath(ROOT / "k8s", folder)
    kustomization = {
        "resources": [f"{k8s}/overlays/{overlay}"],
        "components": [f"{k8s}/components/{name}" for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("overlay", ["standard", "standard-all-namespaces", "standard-registry"])
def test_a_deployment_speaks_tls_and_its_probes_are_answered(
    built_kubectl: Path, overlay: str, tmp_path: Path
) -> None:
    manifests = rendered(built_kubectl, overlay, tmp_path, "cert-manager")
    by_kind = {each["kind"]: each for each in manifests}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    [container], [volume] = pod["containers"], pod["volumes"]
    [mount] = container["volumeMounts"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert "MODELSERVICE_ALLOW_PLAINTEXT" not in given
    assert volume["secret"]["secretName"] == by_kind["Certificate"]["spec"]["secretName"]
    assert volume["name"] == mount["name"]
    assert {given["MODELSERVICE_TLS_CERT"], given["MODELSERVICE_TLS_KEY"]} == {
        f"{mount['mountPath']}/tls.crt",
        f"{mount['mountPath']}/tls.key",
    }
    assert given["MODELSERVICE_LISTEN"] == f"0.0.0.0:{ports['grpc']}"
    assert given["MODELSERVICE_HEALTH_LISTEN"] == f"0.0.0.0:{ports['health']}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == ports["health"]
    [port] = by_kind["Service"]["spec"]["ports"]
    assert (port["name"], port["targetPort"], port["appProtocol"]) == ("grpc", "grpc", "https")


def test_a_server_with_the_settings_of_the_component_answers_its_probes(
    built_kubectl: Path, tmp_path: Path
) -> None:
    by_kind = {each["kind"]: each for each in rendered(built_kubectl, "standard", tmp_path)}
    [container] = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    make_certificate(tmp_path)
    [mount] = container["volumeMounts"]
    ports = {str(each["containerPort"]): str(own_block().next()) for each in container["ports"]}
    environment = {}
    for each in container["env"]:
        if each["name"].startswith("MODELSERVICE_"):
            value = each["value"].replace(mount["mountPath"], str(tmp_path))
            host, colon, port = value.rpartition(":")
            environment[each["name"]] = f"{host}{colon}{ports.get(port, port)}"
    # The local cluster, which has no identities of its own.
    with alone(**environment, MODELSERVICE_AUTH="none"):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["grpc"]
            with grpc.insecure_channel(f"127.0.0.1:{ports[str(asked['port'])]}") as channel:
                request = HealthCheckRequest(service=asked.get("service", ""))
                statuses = HealthStub(channel).Watch(request, timeout=PATIENCE_SECONDS)
                assert any(each.status == HealthCheckResponse.SERVING for each in statuses)


def test_with_the_component_clients_with_certificates_have_a_port_of_their_own(
    built_kubectl: Path, tmp_path: Path
) -> None:
    manifests = rendered(built_kubectl, "standard", tmp_path, "client-certificates")
    by_kind = {each["kind"]: each for each in manifests}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert given["MODELSERVICE_MTLS_LISTEN"] == f"0.0.0.0:{ports['mtls']}"
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "client-ca"]
    assert given["MODELSERVICE_CLIENT_CA"] == f"{mount['mountPath']}/ca.crt"
    assert given["MODELSERVICE_TLS_CERT"]
    by_port = {each["port"]: each for each in by_kind["Service"]["spec"]["ports"]}
    assert by_port[ports["mtls"]]["targetPort"] == "mtls"
    [rule] = by_kind["NetworkPolicy"]["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["grpc", "mtls"]


def test_with_the_component_a_knative_service_is_refused(
    built_kubectl: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="Deployment"):
        rendered(built_kubectl, "knative", tmp_path, "tls")


def test_the_secret_of_the_document_is_what_the_deployment_mounts(
    built_kubectl: Path, tmp_path: Path
) -> None:
    make_certificate(tmp_path)
    [create] = [
        step.command
        for step in transcript("docs/operations.md", "With a CA of your own")
        if step.command.startswith("kubectl ")
    ]
    done = subprocess.run(
        ["bash", "-euc", f"{create} --dry-run=client -o yaml"],
        cwd=tmp_path,
        env={"PATH": f"{built_kubectl.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    secret = yaml.safe_load(done.stdout)
    component = yaml.safe_load((ROOT / "k8s/components/tls/deployment.yaml").read_text())
    [volume] = component["spec"]["template"]["spec"]["volumes"]
    assert secret["metadata"]["name"] == volume["secret"]["secretName"]
    assert {name: base64.b64decode(content) for name, content in secret["data"].items()} == {
        name: (tmp_path / name).read_bytes() for name in ("tls.crt", "tls.key")
    }


def test_the_calls_of_the_document_reach_a_server_with_tls(
    built_grpcurl: Path, tmp_path: Path
) -> None:
    make_certificate(tmp_path)
    calls = [
        step.command
        for step in transcript("docs/operations.md", "With a CA of your own")
        if step.command.startswith("grpcurl ")
    ]
    assert len(calls) == 2
    files = {"tls_cert": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}
    with serving(settings(serving=files | {"listen": "localhost:0"})) as served:
        for call in calls:
            done = subprocess.run(
                ["bash", "-euc", call.replace("localhost:50051", f"localhost:{served.port}")],
                cwd=tmp_path,
                env={"PATH": f"{built_grpcurl.parent}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
            assert done.returncode == 0, (call, done.stderr)
            assert "modelservice.v1.ModelService" in done.stdout

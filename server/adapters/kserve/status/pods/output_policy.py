"""Decide which text of a container may be shown, from the secrets that the container can read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from server.adapters.kserve.objects import Object, find_by_name, get_list, get_map
from server.adapters.kserve.status.pods.account_rights import AccountRights, Rights
from server.domain.caller import Caller
from server.domain.rollout.container_output import OutputGate, OutputGates

_DEFAULT_ACCOUNT = "default"
_CSI_SECRETS_DRIVER = "secrets-store.csi.k8s.io"
# Stands for the token of the default ServiceAccount, which is a secret only if it has rights.
_DEFAULT_TOKEN = "the container has a token of its ServiceAccount"  # noqa: S105


@dataclass(frozen=True, slots=True)
class ReadableSecrets:
    """Hold the secrets that some containers can read.

    `variables`: the names and values in their environment. `secrets`: descriptions of
    everything else that callers may not read.
    """

    namespace: str
    variables: tuple[tuple[str, str], ...] = field(repr=False)
    secrets: tuple[str, ...]


class OutputPolicy:
    """Decide which text of the containers of one cluster `caller` may see.

    `rights`: of the pods' ServiceAccounts; None: unknown.
    """

    def __init__(self, caller: Caller | None = None, rights: AccountRights | None = None) -> None:
        self._caller = caller or Caller()
        self.rights = rights
        self._gates = OutputGates()

    def gate_for_container(self, pod: Object, container: str) -> OutputGate:
        """Return the gate for text that one container of a pod wrote."""
        return self.gate_for(_container_secrets(pod, container))

    def gate_for(self, readable: ReadableSecrets) -> OutputGate:
        """Return the gate for text of containers that can read these secrets."""
        gate = self._gates.masking(readable.variables)
        namespace, described = readable.namespace, ""
        for secret in readable.secrets:
            described = self._describe_token(namespace) if secret == _DEFAULT_TOKEN else secret
            if described:
                break
        if self._caller.may_read_output(namespace, described):
            return gate
        return gate.holding_back(described)

    def clear(self) -> None:
        """Drop the gates, with the secrets of deleted objects."""
        self._gates.clear()

    def _describe_token(self, namespace: str) -> str:
        rights = self.rights.of(namespace, _DEFAULT_ACCOUNT) if self.rights else Rights.UNKNOWN
        match rights:
            case Rights.SOME:
                return f"{_DEFAULT_TOKEN}, which is bound to a role"
            case Rights.UNKNOWN:
                return (
                    f"{_DEFAULT_TOKEN}, and this server may not read which roles that is bound to"
                )
        return ""


def template_secrets(owner: Object, pod_specs: Sequence[Object]) -> ReadableSecrets:
    """Return the secrets that any container of these pods can read, in the namespace of `owner`."""
    secrets = (
        # Kubernetes mounts a token unless the spec refuses it.
        _describe_secret(
            c,
            spec,
            has_token=spec.get("automountServiceAccountToken") is not False
            or _mounts_token(c, spec),
        )
        for spec in pod_specs
        for c in _containers(spec)
    )
    return _readable(owner, pod_specs, secrets)


def _container_secrets(pod: Object, container: str) -> ReadableSecrets:
    """Return the secrets that one container of a pod can read.

    Each has its own environment and files. If the containers share their processes, each can read
    those of all others.
    """
    spec = get_map(pod, "spec")
    secrets = (
        _describe_secret(c, spec, has_token=_mounts_token(c, spec))
        for c in _readable_containers(container, spec)
    )
    return _readable(pod, [spec], secrets)


def _readable(
    owner: Object, pod_specs: Iterable[Object], secrets: Iterable[str]
) -> ReadableSecrets:
    variables = (
        (str(variable.get("name", "")), str(variable.get("value") or ""))
        for spec in pod_specs
        for container in _containers(spec)
        for variable in get_list(container, "env")
    )
    namespace = str(get_map(owner, "metadata").get("namespace", ""))
    return ReadableSecrets(
        namespace, tuple(dict.fromkeys(variables)), tuple(filter(None, dict.fromkeys(secrets)))
    )


def _describe_secret(container: Object, spec: Object, *, has_token: bool) -> str:
    """Describe a secret that the container can read and callers may not; empty if there is none."""
    account = str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "")
    if any("secretKeyRef" in get_map(v, "valueFrom") for v in get_list(container, "env")):
        return "the container has values of Secrets in its environment"
    if get_list(container, "envFrom"):
        return "the container takes its environment from whole Secrets or ConfigMaps"
    mounted = _mounted_volumes(container, spec)
    if any(map(_has_secret, mounted)):
        return "the container has the files of a Secret"
    # The kubelet keeps the Secrets and tokens of all pods of its node there.
    if any("hostPath" in volume for volume in mounted):
        return "the container has files of its node"
    if spec.get("hostPID"):
        return "the container sees the processes of its node"
    if get_map(container, "securityContext").get("privileged"):
        return "the container is privileged, and reads the disks of its node"
    if account not in ("", _DEFAULT_ACCOUNT):
        return f"the pod has the ServiceAccount {account}"
    if any(source.get("audience") for volume in mounted for source in _tokens(volume)):
        return "the container has a token of its ServiceAccount for other systems"
    return _DEFAULT_TOKEN if has_token else ""


def _containers(pod_spec: Object) -> Iterator[Object]:
    yield from get_list(pod_spec, "initContainers")
    yield from get_list(pod_spec, "containers")


def _readable_containers(container: str, pod_spec: Object) -> list[Object]:
    """Return the containers whose environment and files this one can read."""
    running = [
        *(c for c in get_list(pod_spec, "initContainers") if c.get("restartPolicy") == "Always"),
        *get_list(pod_spec, "containers"),
    ]
    if pod_spec.get("shareProcessNamespace") and find_by_name(running, container):
        return running
    itself = [c for c in _containers(pod_spec) if c.get("name") == container]
    return itself or list(_containers(pod_spec))


def _mounted_volumes(container: Object, pod_spec: Object) -> list[Object]:
    names = {m.get("name") for m in get_list(container, "volumeMounts")}
    return [v for v in get_list(pod_spec, "volumes") if v.get("name") in names]


def _has_secret(volume: Object) -> bool:
    projected = get_list(volume, "projected", "sources")
    by_csi = get_map(volume, "csi").get("driver") == _CSI_SECRETS_DRIVER
    return "secret" in volume or by_csi or any("secret" in source for source in projected)


def _tokens(volume: Object) -> Iterator[Object]:
    for source in get_list(volume, "projected", "sources"):
        if "serviceAccountToken" in source:
            yield get_map(source, "serviceAccountToken")


def _mounts_token(container: Object, pod_spec: Object) -> bool:
    mounted = _mounted_volumes(container, pod_spec)
    return any(True for volume in mounted for _ in _tokens(volume))

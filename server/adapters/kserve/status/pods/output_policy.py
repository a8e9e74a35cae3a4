"""Make the gate for what a container wrote, from what the container can read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from server.adapters.kserve.objects import Object, find_by_name, get_list, get_map
from server.adapters.kserve.status.pods.account_rights import AccountRights, Rights
from server.domain.caller import Caller
from server.domain.rollout.container_output import OutputGate, OutputGates

_DEFAULT_ACCOUNT = "default"
_SECRETS_BY_CSI = "secrets-store.csi.k8s.io"


class OutputPolicy:
    """The output_policy for the containers of one cluster.

    `caller` is who asks, and `rights` what the accounts of pods may do; None: that is not known.
    """

    def __init__(self, caller: Caller | None = None, rights: AccountRights | None = None) -> None:
        self._caller = caller or Caller()
        self.rights = rights
        self._gates = OutputGates()

    def gate_for_container(self, pod: Object, container: str) -> OutputGate:
        """Return the gate for what one container of a pod wrote.

        Each has its own environment and files; where the containers of a pod share their processes,
        each can read those of all that run beside it.
        """
        spec = get_map(pod, "spec")
        holdings = (
            self._holding(c, spec, pod, has_token=_mounts_token(c, spec))
            for c in _read_by(container, spec)
        )
        return self._gate(pod, [spec], holdings)

    def gate_for_templates(self, owner: Object, pod_specs: Sequence[Object]) -> OutputGate:
        """Return the gate for what some container wrote of pods that are made, in the namespace of
        `owner`, from these specs. Kubernetes mounts a token where a spec does not refuse it."""
        holdings = (
            self._holding(c, spec, owner, has_token=_gets_token(spec) or _mounts_token(c, spec))
            for spec in pod_specs
            for c in _containers(spec)
        )
        return self._gate(owner, pod_specs, holdings)

    def clear(self) -> None:
        """Keep no secrets of what is gone."""
        self._gates.clear()

    def _gate(
        self, owner: Object, pod_specs: Iterable[Object], holdings: Iterable[str]
    ) -> OutputGate:
        gate = self._gates.masking(_variables(c for spec in pod_specs for c in _containers(spec)))
        namespace, holding = _namespace(owner), next(filter(None, holdings), "")
        return (
            gate if self._caller.may_read_output(namespace, holding) else gate.holding_back(holding)
        )

    def _holding(self, container: Object, spec: Object, owner: Object, *, has_token: bool) -> str:
        """What the container can read that callers may not, in words; empty where nothing."""
        account = str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "")
        if any("secretKeyRef" in get_map(v, "valueFrom") for v in get_list(container, "env")):
            return "the container has values of Secrets in its environment"
        if get_list(container, "envFrom"):
            return "the container takes its environment from whole Secrets or ConfigMaps"
        if any(map(_has_secret, _mounted(container, spec))):
            return "the container has the files of a Secret"
        # The kubelet has the Secrets and tokens of all pods of its node there.
        if any("hostPath" in volume for volume in _mounted(container, spec)):
            return "the container has files of its node"
        if spec.get("hostPID"):
            return "the container sees the processes of its node"
        if get_map(container, "securityContext").get("privileged"):
            return "the container is privileged, and reads the disks of its node"
        if account not in ("", _DEFAULT_ACCOUNT):
            return f"the pod has the ServiceAccount {account}"
        if any(s.get("audience") for v in _mounted(container, spec) for s in _tokens(v)):
            return "the container has a token of its ServiceAccount for other systems"
        return self._holding_of_token(_namespace(owner)) if has_token else ""

    def _holding_of_token(self, namespace: str) -> str:
        holding = "the container has a token of its ServiceAccount"
        rights = self.rights.of(namespace, _DEFAULT_ACCOUNT) if self.rights else Rights.UNKNOWN
        match rights:
            case Rights.SOME:
                return f"{holding}, which is bound to a role"
            case Rights.UNKNOWN:
                return f"{holding}, and this server may not read which roles that is bound to"
        return ""


def _namespace(of: Object) -> str:
    return str(get_map(of, "metadata").get("namespace", ""))


def _containers(pod_spec: Object) -> Iterator[Object]:
    yield from get_list(pod_spec, "initContainers")
    yield from get_list(pod_spec, "containers")


def _read_by(container: str, pod_spec: Object) -> list[Object]:
    """The containers whose environment and files this one can read."""
    lasting = [
        *(c for c in get_list(pod_spec, "initContainers") if c.get("restartPolicy") == "Always"),
        *get_list(pod_spec, "containers"),
    ]
    if pod_spec.get("shareProcessNamespace") and find_by_name(lasting, container):
        return lasting
    itself = [c for c in _containers(pod_spec) if c.get("name") == container]
    return itself or list(_containers(pod_spec))


def _variables(containers: Iterable[Object]) -> Iterator[tuple[str, str]]:
    for container in containers:
        for variable in get_list(container, "env"):
            yield str(variable.get("name", "")), str(variable.get("value") or "")


def _mounted(container: Object, pod_spec: Object) -> Iterator[Object]:
    """The volumes that the container can read."""
    names = {m.get("name") for m in get_list(container, "volumeMounts")}
    return (v for v in get_list(pod_spec, "volumes") if v.get("name") in names)


def _has_secret(volume: Object) -> bool:
    projected = get_list(volume, "projected", "sources")
    by_csi = get_map(volume, "csi").get("driver") == _SECRETS_BY_CSI
    return "secret" in volume or by_csi or any("secret" in source for source in projected)


def _tokens(volume: Object) -> Iterator[Object]:
    for source in get_list(volume, "projected", "sources"):
        if "serviceAccountToken" in source:
            yield get_map(source, "serviceAccountToken")


def _mounts_token(container: Object, pod_spec: Object) -> bool:
    return any(True for volume in _mounted(container, pod_spec) for _ in _tokens(volume))


def _gets_token(pod_spec: Object) -> bool:
    return pod_spec.get("automountServiceAccountToken") is not False

"""Writing down everything that the API server tells of the services in one namespace."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import Lab

from .namespace_watch import WATCHED, WATCHED_OF_KNATIVE, NamespaceWatch, Object, Sight

NAMESPACE_SHOWN = "models"
SIDECAR = "queue-proxy"
OF_THE_SIDECAR = (
    *("affinity", "lifecycle", "terminationGracePeriodSeconds"),
    *("terminationMessagePath", "terminationMessagePolicy"),
)


class LifeRecording:
    """Watches a namespace from construction to `save`."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self._namespace = namespace
        watched = WATCHED | (WATCHED_OF_KNATIVE if lab.mode == "knative" else {})
        self._watch = NamespaceWatch(lab, lab.tokens["admin"], namespace, watched)

    def written(self, answer: Object) -> None:
        """Note the answer to a write of ours, which the server knows at once."""
        self._watch.seen.append(Sight(time.time(), "service", "WRITTEN", answer))

    def save(self, path: Path) -> None:
        """Write what came, each object after its first time as a merge patch."""
        self._watch.close()
        lines = sorted(self._watch.seen, key=lambda line: line.at)
        began = lines[0].at
        changes = ",\n".join(_changes(began, lines))
        head = f'"started":{began},"lasted":{time.time() - began:.3f}'
        text = f'{{{head},"changes":[\n{changes}\n]}}\n'
        path.write_text(text.replace(self._namespace, NAMESPACE_SHOWN))


def _changes(began: float, lines: list[Sight]) -> list[str]:
    known: dict[str, Object] = {}
    told = []
    for line in lines:
        at, kind, change, obj = line.at, line.kind, line.change, line.object
        if kind == "event" and not _wanted(obj):
            continue
        now, uid = _trimmed(kind, obj), obj["metadata"]["uid"]
        before = known.get(uid, {})
        if kind == "service" and _older(now, before, written=change == "WRITTEN"):
            continue
        row: Object = {"at": round(at - began, 3), "kind": kind, "uid": uid}
        if change == "DELETED":
            known.pop(uid, None)
            told.append(_compact({**row, "gone": True}))
        elif patch := _patch(before, now):
            known[uid] = now
            told.append(_compact({**row, "patch": patch}))
    return told


def _wanted(event: Object) -> bool:
    about = event["involvedObject"]["kind"] in ("InferenceService", "Pod")
    return about and event["type"] == "Warning"


def _older(now: Object, before: Object, *, written: bool) -> bool:
    """Whether a watch, or the answer to a write, told more already."""
    if not before:
        return False
    ahead = before["metadata"]["generation"] - now["metadata"]["generation"]
    return bool(ahead > 0 or (ahead == 0 and written))


def _trimmed(kind: str, obj: Object) -> Object:
    """Without what no reader of statuses looks at."""
    trimmed: Object = _without_sidecars(_without_nulls(obj))
    metadata = trimmed["metadata"]
    if kind != "service":  # whose events name the one that KServe looked at
        metadata.pop("resourceVersion", None)
    owners = metadata.pop("managedFields", [])
    if kind == "service":
        metadata["managedFields"] = [{**o, "fieldsV1": _spec_fields(o)} for o in owners]
    elif kind in ("deployment", "replica_set", "autoscaler"):
        metadata["annotations"] = {
            key: value
            for key, value in metadata.get("annotations", {}).items()
            if key.startswith("deployment.kubernetes.io/")
        }
    elif kind in WATCHED_OF_KNATIVE:
        metadata.pop("finalizers", None)
    elif kind == "pod":
        metadata.pop("annotations", None)
        trimmed["spec"] = _pod_spec(trimmed["spec"])
    else:
        trimmed["metadata"] = {"uid": metadata["uid"], "name": metadata["name"]}
    return trimmed


def _spec_fields(owner: Object) -> Object:
    return (
        {}
        if owner.get("subresource")
        else {name: fields for name, fields in owner["fieldsV1"].items() if name == "f:spec"}
    )


def _pod_spec(spec: Object) -> Object:
    kept = {"nodeName": spec.get("nodeName", "")}
    for kind in ("initContainers", "containers"):
        if kind in spec:
            fields = ("name", "image", "env")
            kept[kind] = [{f: c[f] for f in fields if f in c} for c in spec[kind]]
    return kept


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _without_sidecars(value: Any) -> Any:
    """With no more than the name of what Knative puts beside a container, and into its pod."""
    if isinstance(value, list):
        return [_without_sidecars(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("name") == SIDECAR and "image" in value and "state" not in value:
        return {"name": SIDECAR, "image": value["image"]}
    return {k: _without_sidecars(v) for k, v in value.items() if k not in OF_THE_SIDECAR}


def _patch(before: Mapping[str, Any], now: Mapping[str, Any]) -> Object:
    """The JSON merge patch (RFC 7386) from one to the other; empty where they are equal."""
    patch: Object = dict.fromkeys(before.keys() - now.keys())
    for key, value in now.items():
        old = before.get(key)
        if old != value:
            both = isinstance(old, dict) and isinstance(value, dict)
            patch[key] = _patch(old, value) if both else value
    return patch


def _compact(row: Object) -> str:
    return json.dumps(row, separators=(",", ":"), sort_keys=True)

"""Read fields of raw Kubernetes objects. A field that is absent or null reads as empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from server.adapters.kserve.held_object import HeldObject
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import ServiceKey

Object = Mapping[str, Any]


def get_map(obj: Object, *path: str) -> Object:
    """Return the map at `path`, or an empty one."""
    for name in path:
        obj = obj.get(name) or {}
    return obj


def get_list(obj: Object, *path: str) -> list[Any]:
    """Return the list at `path`, or an empty one."""
    found: Any = obj
    for name in path:
        found = found.get(name) or {}
    return found or []


def find_by_name(objects: Iterable[Object], name: str) -> Object:
    """Return the first of `objects` with this `name`, or an empty one."""
    return next((o for o in objects if o.get("name") == name), {})


def uid_of(obj: Object) -> str:
    """Return metadata.uid."""
    if isinstance(obj, HeldObject):
        return obj.uid
    return str((obj.get("metadata") or {}).get("uid", ""))


def generation_of(obj: Object) -> int:
    """Return metadata.generation: Kubernetes raises it with each change of the spec, and once more
    when it marks the object as deleted."""
    if isinstance(obj, HeldObject):
        return obj.generation
    return int((obj.get("metadata") or {}).get("generation") or 0)


def key_of(service: Object) -> ServiceKey:
    """Return the namespace and name of an InferenceService."""
    if isinstance(service, HeldObject):
        return ServiceKey(service.namespace, service.name)
    return ServiceKey(service["metadata"]["namespace"], service["metadata"]["name"])


def rollout_of(service: Object) -> Rollout:
    """Return the rollout that an InferenceService asks for: its uid and generation.

    The generation that Kubernetes adds with the deletionTimestamp is no rollout, so the last one
    keeps its number.
    """
    metadata = service.get("metadata") or {}
    generation = int(metadata.get("generation") or 0)
    return Rollout(str(metadata.get("uid", "")), generation - ("deletionTimestamp" in metadata))


def version_of(obj: Object) -> str:
    """Return metadata.resourceVersion."""
    if isinstance(obj, HeldObject):
        return obj.version
    return str((obj.get("metadata") or {}).get("resourceVersion", ""))


def name_of(obj: Object) -> str:
    """Return metadata.name."""
    if isinstance(obj, HeldObject):
        return obj.name
    return str((obj.get("metadata") or {}).get("name", ""))


def annotations_of(obj: Object) -> Object:
    """Return metadata.annotations of an object or a pod template."""
    return (obj.get("metadata") or {}).get("annotations") or {}


def controller_of(obj: Object) -> str:
    """Return the uid of the object that controls this one, or an empty text."""
    owners = get_list(obj, "metadata", "ownerReferences")
    return next((str(o.get("uid", "")) for o in owners if o.get("controller")), "")


def get_condition(obj: Object, kind: str) -> Object:
    """Return the status condition of this type, or an empty one."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), {})


def is_condition_true(obj: Object, kind: str) -> bool:
    """Return whether the status condition of this type is True."""
    return get_condition(obj, kind).get("status") == "True"


def parse_time(text: object) -> datetime | None:
    """Parse a Kubernetes timestamp, or return None.

    A condition's time can be any text: the schema of the InferenceService does not check it.
    """
    if not isinstance(text, str):
        return None
    try:
        read = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return read if text[-1:] == "Z" or text[-6:-5] in ("+", "-") else None


def created_at(obj: Object) -> datetime:
    """Return metadata.creationTimestamp."""
    return datetime.fromisoformat(obj["metadata"]["creationTimestamp"])

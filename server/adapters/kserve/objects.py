"""Reading raw Kubernetes objects: what is absent reads as empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from server.domain.rollout.rollout_id import Rollout

Object = Mapping[str, Any]


def get_map(obj: Object, *path: str) -> Object:
    """The map at `path`; empty where it, or anything on the way, is absent or null."""
    for name in path:
        obj = obj.get(name) or {}
    return obj


def get_list(obj: Object, *path: str) -> list[Any]:
    """The list at `path`; empty where it is absent or null."""
    return get_map(obj, *path[:-1]).get(path[-1]) or []


def find_by_name(objects: Iterable[Object], name: str) -> Object:
    """The first of `objects` with this `name`, or an empty one."""
    return next((o for o in objects if o.get("name") == name), {})


def uid_of(obj: Object) -> str:
    """The object's identity."""
    return str(get_map(obj, "metadata").get("uid", ""))


def generation_of(obj: Object) -> int:
    """Kubernetes' count of the changes to the object's spec, its mark of deletion among them."""
    return int(get_map(obj, "metadata").get("generation") or 0)


def rollout_of(service: Object) -> Rollout:
    """The rollout that an InferenceService asks for.

    Kubernetes raises the generation once more where it marks an object as deleted, which nobody
    deployed: the last rollout's name stays.
    """
    marked = "deletionTimestamp" in get_map(service, "metadata")
    return Rollout(uid_of(service), generation_of(service) - marked)


def name_of(obj: Object) -> str:
    """The object's name."""
    return str(get_map(obj, "metadata").get("name", ""))


def annotations_of(obj: Object) -> Object:
    """The object's annotations, or those of a pod template."""
    return get_map(obj, "metadata", "annotations")


def controller_of(obj: Object) -> str:
    """The uid of the object that controls this one; empty if none does."""
    owners = get_list(obj, "metadata", "ownerReferences")
    return next((str(o.get("uid", "")) for o in owners if o.get("controller")), "")


def get_condition(obj: Object, kind: str) -> Object:
    """The condition of this type, or an empty one."""
    return next((c for c in get_list(obj, "status", "conditions") if c.get("type") == kind), {})


def is_condition_true(obj: Object, kind: str) -> bool:
    """Whether the condition of this type is True."""
    return get_condition(obj, kind).get("status") == "True"


def parse_time(text: object) -> datetime | None:
    """A Kubernetes timestamp; None where there is none, or a text that is none: the schema lets
    others write any text as the time of a condition."""
    if not isinstance(text, str):
        return None
    try:
        read = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return read if text[-1:] == "Z" or text[-6:-5] in ("+", "-") else None


def created_at(obj: Object) -> datetime:
    """When the API server first stored the object."""
    return datetime.fromisoformat(obj["metadata"]["creationTimestamp"])

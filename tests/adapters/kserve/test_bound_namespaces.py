"""The namespaces in which a caller is bound to a role."""

from __future__ import annotations

from typing import Any

from server.adapters.kserve.status.pods.bound_namespaces import BoundNamespaces


def binding(namespace: str, *subjects: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace}, "subjects": [*subjects]}


def test_users_groups_and_accounts_are_found_until_their_bindings_go() -> None:
    bound = BoundNamespaces()
    account = {"kind": "ServiceAccount", "namespace": "ci", "name": "bot"}
    user, group = {"kind": "User", "name": "jane"}, {"kind": "Group", "name": "risk"}
    bound.put("1", binding("a", account, user))
    bound.put("2", binding("b", user, group))
    bound.put("3", binding("", user))
    bound.put("4", binding("a", user))
    assert bound.of(["system:serviceaccount:ci:bot"]) == {"a"}
    assert bound.of(["jane"]) == {"a", "b"}
    assert bound.of(["joe", "risk"]) == {"b"}
    bound.put("2", binding("b", group))
    bound.drop("1")
    bound.drop("unknown")
    assert bound.of(["jane"]) == {"a"}
    bound.drop("4")
    assert bound.of(["jane", "system:serviceaccount:ci:bot", "bot"]) == set()

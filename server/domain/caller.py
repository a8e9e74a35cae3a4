"""The caller of an RPC, and its rights."""

from __future__ import annotations

from dataclasses import dataclass

ALL_NAMESPACES = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller. All are anonymous, with an empty `name`, until callers have an identity.

    `reads_output_in`: the namespaces in which the caller may read the output of containers that
    can read more than the caller, `*` for all of them.
    """

    name: str = ""
    reads_output_in: frozenset[str] = frozenset()

    def may_read_output(self, namespace: str, holding: str) -> bool:
        """Return whether the caller may read what a container wrote.

        `holding`: what the container can read, and write out, that the caller may not read, in
        words; empty where there is nothing such.
        """
        shown = namespace in self.reads_output_in or ALL_NAMESPACES in self.reads_output_in
        return not holding or shown


ANONYMOUS = Caller()

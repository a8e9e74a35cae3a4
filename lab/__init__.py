"""A real KServe control plane on this machine, without Docker: `python -m lab`."""

from .audit import AuditEntry
from .builds import BuildFailed, Mode
from .cluster import Cluster
from .control_plane import Lab, booted_lab, build_lab, check_lab
from .node import NodeLab, booted_node_lab, build_node_lab, check_node_lab
from .processes import Component, ComponentFailed, wait_until

__all__ = [
    "AuditEntry",
    "BuildFailed",
    "Cluster",
    "Component",
    "ComponentFailed",
    "Lab",
    "Mode",
    "NodeLab",
    "booted_lab",
    "booted_node_lab",
    "build_lab",
    "build_node_lab",
    "check_lab",
    "check_node_lab",
    "wait_until",
]

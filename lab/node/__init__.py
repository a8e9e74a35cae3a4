"""A real node for the lab: kubelet, containerd and runc, in namespaces of their own."""

from .lab import NodeLab, booted_node_lab, build_node_lab, check_node_lab

__all__ = ["NodeLab", "booted_node_lab", "build_node_lab", "check_node_lab"]

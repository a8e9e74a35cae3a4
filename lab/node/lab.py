"""The lab with a real node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import builds
from lab.builds import NEWEST_KSERVE, KServe, Mode, Say
from lab.control_plane import Lab, booted, new_site
from lab.images import archives, queue_proxy
from lab.knative import KnativeServing
from lab.processes import wait_until
from lab.site import Site

from . import models, packages, store
from .real import RealNode


class NodeLab(Lab):
    """A KServe control plane with a node that really runs pods; see `booted_node_lab`.

    `kubelet` and `containerd` can each be stopped, started, frozen and thawed; pods go on while
    they are away.
    """

    def __init__(
        self,
        site: Site,
        node: RealNode,
        knative: KnativeServing | None = None,
        kserve: KServe = NEWEST_KSERVE,
    ) -> None:
        super().__init__(site, node, knative, kserve)
        self._real_node = node
        self.kubelet = node.programs.kubelet
        self.containerd = node.programs.containerd

    def import_image(self, archive: Path) -> None:
        """Give the node one image more, under the name that this docker archive carries."""
        self._real_node.import_image(archive)

    def put_models(self, folder: Path, namespace: str, claim: str = "models") -> None:
        """Copy `folder` to the node, for `pvc://CLAIM/PATH` in this namespace; returns when bound.

        May be called again with a folder of further files.
        """
        target = self.folder / "models" / namespace / claim
        models.copy_readable(folder, target)
        for manifest in models.volume(target, namespace, claim):
            self.apply(manifest)
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}"
        wait_until(lambda: self.get(path)["status"]["phase"] == "Bound", f"{claim} is bound")


def check_node_lab() -> None:
    """Raise BuildFailed where there can be no real node, or none can be built."""
    packages.check()
    builds.check_go()


def build_node_lab(
    say: Say, mode: Mode = "standard", kserve: KServe = NEWEST_KSERVE
) -> tuple[dict[str, Path], Path]:
    """The lab's programs by name, and the store of its images.

    Installs, builds and fetches what is missing. Raises BuildFailed.
    """
    check_node_lab()
    packages.install(say)
    programs = builds.programs((*builds.control_plane(mode, kserve), *builds.REAL_NODE), say)
    if mode == "knative":
        queue_proxy(say)
    return programs, store.imported(archives(say).values(), say)


@contextmanager
def booted_node_lab(
    say: Say = print, mode: Mode = "standard", kserve: KServe = NEWEST_KSERVE
) -> Iterator[NodeLab]:
    """A lab with a real node and KServe of this release and in this mode, ready for use; nothing of
    it is left after.

    Raises BuildFailed or ComponentFailed; where the boot fails its folder, with a log for each
    component, is kept and told.
    """
    programs, images = build_node_lab(say, mode, kserve)
    with new_site(programs) as site:
        node = RealNode(site, images)
        knative = KnativeServing(site, node) if mode == "knative" else None
        with booted(NodeLab(site, node, knative, kserve), say) as lab:
            if knative:
                lab.import_image(queue_proxy(say))
            yield lab

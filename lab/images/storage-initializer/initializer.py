"""A stand-in for KServe's storage initializer: `initializer.py SRC_URI DEST_PATH ...`.

It downloads nothing. The URI chooses what happens:

    <scheme>://lab-models/<folder>    copies that folder of the image: iris-v1, iris-v2, ...
    <scheme>://lab-models/no-space    fails for real, since it copies to a disk that is full
    <scheme>://lab-models/hangs       goes on for ever, as from a server that sends nothing
    anything else                     is not found

Exit codes and log lines are those of KServe 0.20's entry point for gs:// (0, or 1 with the cause in
the last lines on stderr); what the cloud's own library says in between is not known here.
"""

import logging
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

MODELS = Path("/models")
FULL_DISK = Path("/dev/full")

logger = logging.getLogger("storage.initializer")


def main() -> None:
    """Fetch each SRC_URI into its DEST_PATH, or exit with 1."""
    _configure_logging()
    pairs = list(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    logger.info("Initializing, args: (src_uri, dest_path): %s", pairs)
    try:
        for uri, target in pairs:
            _download(uri, Path(target))
    except RuntimeError as error:
        logger.error("Storage initialization failed: %s", error)
        sys.exit(1)
    except Exception as error:
        logger.error("Unexpected error during storage initialization: %s", error)
        sys.exit(1)


def _download(uri: str, target: Path) -> None:
    logger.info("Copying contents of %s to local", uri)
    parts = urlsplit(uri)
    folder = parts.path.strip("/")
    if parts.netloc != "lab-models":
        _not_found(uri, parts.netloc)
    if folder == "no-space":
        _copy(MODELS / "iris-v1" / "model.joblib", FULL_DISK)
    if folder == "hangs":
        threading.Event().wait()
    found = [path for path in MODELS.glob(f"{folder}/*") if path.is_file()] if folder else []
    if not found:
        raise RuntimeError(f"Failed to fetch model. No model found in {uri}.")
    for path in found:
        _copy(path, target / path.name)
    logger.info("Successfully copied %s to %s", uri, target)


def _copy(source: Path, target: Path) -> None:
    logger.info("Downloading: %s", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _not_found(uri: str, bucket: str) -> None:
    logger.error("GCS error for %s: 404 The specified bucket does not exist.", uri)
    raise RuntimeError(f"GCS resource '{bucket}' not found.")


def _configure_logging() -> None:
    logging.basicConfig(
        level=logging.DEBUG,
        format="%(asctime)s.%(msecs)03d %(process)s %(name)s %(levelname)s "
        "[%(filename)s:%(funcName)s():%(lineno)s] %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )


main()

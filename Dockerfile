# Any image with Python 3.11 or later as `python3` and its venv module.
ARG BASE=docker.io/library/python:3.11-slim

FROM ${BASE} AS cli-build
USER 0
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/modelctl
COPY requirements-build.lock requirements-cli.lock /
COPY generated /src/generated
COPY client /src/client
# The secret is that of the server's build.
RUN --mount=type=secret,id=ca,target=/run/ca.pem \
    [ ! -e /run/ca.pem ] || export PIP_CERT=/run/ca.pem; \
    export PIP_QUIET=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ONLY_BINARY=:all:; \
    /pip/bin/pip --python /opt/modelctl/bin/python3 install --require-hashes -r /requirements-cli.lock \
    && /pip/bin/pip install --require-hashes -r /requirements-build.lock \
    && /pip/bin/pip wheel --no-deps --no-build-isolation -w /wheels /src/generated /src/client \
    && /pip/bin/pip --python /opt/modelctl/bin/python3 install --no-index --no-deps /wheels/*.whl
RUN /opt/modelctl/bin/python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/modelctl/lib \
    && chmod -R a+rX /opt/modelctl \
    && /opt/modelctl/bin/modelctl --help >/dev/null

FROM ${BASE} AS cli
LABEL org.opencontainers.image.title="modelctl" \
      org.opencontainers.image.description="The command line of ModelService" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=cli-build /opt/modelctl /opt/modelctl
# CI jobs run its shell and name the program.
ENV PATH=/opt/modelctl/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["modelctl"]

FROM ${BASE} AS build
USER 0
# pip stays in a room of its own, so that the server's has none.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/modelservice
COPY requirements.lock /
# A secret named `ca`, where there is one, has the certificates of the network that this is built in.
RUN --mount=type=secret,id=ca,target=/run/ca.pem \
    [ ! -e /run/ca.pem ] || export PIP_CERT=/run/ca.pem; \
    /pip/bin/pip --python /opt/modelservice/bin/python3 install --quiet --no-cache-dir --no-compile \
      --only-binary :all: --require-hashes -r /requirements.lock
COPY server /opt/modelservice/app/server
COPY generated/modelservice /opt/modelservice/app/modelservice
COPY LICENSE /opt/modelservice/
ENV PYTHONPATH=/opt/modelservice/app \
    PYTHONDONTWRITEBYTECODE=1
# Compiled here, since the root is read-only where it runs; by hash, since copies change times.
# Copies have the modes of the checkout, which may be for its owner alone. The import tells now, and
# not in a cluster, if something is missing.
RUN /opt/modelservice/bin/python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      /opt/modelservice/lib /opt/modelservice/app \
    && chmod -R a+rX /opt/modelservice \
    && /opt/modelservice/bin/python3 -c "import server.app, server.adapters.kserve.cluster, \
      server.adapters.sql.schema_upgrade, server.adapters.sql.factory"

FROM ${BASE}
LABEL org.opencontainers.image.title="ModelService" \
      org.opencontainers.image.description="The gRPC front door of a KServe platform" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/modelservice /opt/modelservice
ENV PYTHONPATH=/opt/modelservice/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, since the kubelet cannot look up a name to hold it to runAsNonRoot.
USER 65532:65532
EXPOSE 50051
STOPSIGNAL SIGTERM
# No HEALTHCHECK: Kubernetes asks the server's own gRPC health service, see k8s/base.
ENTRYPOINT ["/opt/modelservice/bin/python3", "-m", "server"]

# syntax=docker/dockerfile:1
# The control plane with git and the renderers that it calls. Runs as user 10001 on a read-only root file system: it
# writes to /data (state) and /tmp (keys and expanded templates of one process at a time) alone.
ARG PYTHON=3.11

FROM golang:1.26-bookworm AS renderers
WORKDIR /src
# The same pinned module that the tests build.
COPY tests/testbed/modules/kustomize/go.mod tests/testbed/modules/kustomize/go.sum ./
RUN CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w" -o /out/kustomize sigs.k8s.io/kustomize/kustomize/v5

FROM python:${PYTHON}-slim-bookworm AS package
WORKDIR /src
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY fleet fleet
# requirements.txt pins every version; what only tests need is not installed.
RUN python -m venv /opt/fleet \
 && /opt/fleet/bin/pip install --no-cache-dir --constraint requirements.txt . \
 && /opt/fleet/bin/python -m compileall -q /opt/fleet/lib

FROM python:${PYTHON}-slim-bookworm
# tini reaps what git leaves behind: helpers of a fetch that was cut off become children of process 1.
RUN apt-get update \
 && apt-get install --no-install-recommends --yes ca-certificates git openssh-client tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin fleet \
 && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=renderers /out/kustomize /usr/local/bin/kustomize
COPY --from=package /opt/fleet /opt/fleet
ENV PATH=/opt/fleet/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLEET_DATA_DIR=/data
USER 10001:10001
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["tini", "--", "fleet"]
CMD ["--help"]

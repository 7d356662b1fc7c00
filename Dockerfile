# Traffic Manager as an image. docs/install.md says how it is run.
# To pin the base to a digest: --build-arg BASE=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# pip stays outside of the environment that it fills: nobody installs anything in a running container.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/traffic-manager
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY requirements.txt .
RUN /opt/pip/bin/pip --python /opt/traffic-manager install --require-hashes -r requirements.txt
COPY pyproject.toml README.md ./
COPY src src
RUN PATH=/opt/traffic-manager/bin:$PATH \
    /opt/pip/bin/pip --python /opt/traffic-manager install --no-deps --no-build-isolation . \
 && /opt/pip/bin/pip --python /opt/traffic-manager uninstall --yes uv-build

FROM ${BASE}
LABEL org.opencontainers.image.title="Traffic Manager" \
      org.opencontainers.image.description="A multi-tenant routing control plane"
# By number, so that a platform can see that it is not root.
RUN groupadd --gid 10001 traffic-manager \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/traffic-manager traffic-manager \
 && install -d -m 700 -o 10001 -g 10001 /var/lib/traffic-manager/data
COPY --from=build /opt/traffic-manager /opt/traffic-manager
ENV PATH=/opt/traffic-manager/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ENVIRONMENT=production
USER 10001:10001
WORKDIR /var/lib/traffic-manager
# SQLite's file, or the table on disk of a node on PostgreSQL: the only place that is written to beside /dev/shm.
VOLUME /var/lib/traffic-manager/data
EXPOSE 8000
# Ready, that is: `unhealthy` while it drains, and before it has met its database. With TLS set TM_URL and TM_CA_FILE.
HEALTHCHECK --interval=15s --timeout=6s --start-period=30s \
    CMD TM_URL=${TM_URL:-http://127.0.0.1:${API_PORT:-8000}} traffic-manager health --timeout 5 || exit 1
ENTRYPOINT ["traffic-manager"]
CMD ["serve"]

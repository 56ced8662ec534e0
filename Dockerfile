# Both services in one image: `docker run IMAGE command_service serve`, or query_service.

FROM python:3.11-slim-bookworm AS base


FROM base AS builder

RUN python -m venv --without-pip /opt/venv
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && pip --python /opt/venv/bin/python install --no-cache-dir /dist/*.whl


FROM base

# What runs needs nothing that installs, or that becomes root.
RUN pip uninstall --yes pip setuptools wheel \
    && groupadd --gid 10001 tidemark \
    && useradd --uid 10001 --gid tidemark --home-dir /data --no-create-home \
        --shell /usr/sbin/nologin tidemark \
    && install --directory --owner tidemark --group tidemark /data
COPY --from=builder /opt/venv /opt/venv

# Safe path: nothing that lies in the folder of the data is ever imported.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1

WORKDIR /data
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 50051 50052 9051 9052
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m"]

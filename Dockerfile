# Three images: `service` (the web half), `supervisor` (models on CPU and CUDA), `supervisor-ipu` (models on IPUs).
#
#     docker build --target service .
#
# `docker compose build` makes what compose.yaml needs. What only the machine that builds can know comes from outside:
#
#     --build-arg BASE=python:3.11-slim-bookworm@sha256:…    the Python image; in production, name its digest
#     --secret id=pip,src=pip.conf                           pip's package index and authorities, if not the default ones
#     --build-context wheels=FOLDER                          wheels that are there already, taken before any index's
#
# It needs BuildKit (the builder of Docker since 23). Nothing that is needed only to build is in a final image.
ARG BASE=python:3.11-slim-bookworm
ARG IPU_BASE=graphcore/pytorch:3.3.0-ubuntu-20.04-20230703

# Empty, unless --build-context replaces it.
FROM scratch AS wheels

# ---- virtual environments, made where they will lie -------------------------------------------------------------------
FROM ${BASE} AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/wheels PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv

FROM environment AS service-environment
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements/service.txt,target=/locks/service.txt \
    python -m pip --python /opt/venv install --no-deps --require-hashes -r /locks/service.txt

FROM environment AS supervisor-environment
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements/supervisor-cpu.txt,target=/locks/supervisor-cpu.txt \
    python -m pip --python /opt/venv install --no-deps --require-hashes -r /locks/supervisor-cpu.txt
# Which build of torch this is (CPU, CUDA) is the choice of the package index.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements/torch.txt,target=/locks/torch.txt \
    python -m pip --python /opt/venv install -r /locks/torch.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements/demo.txt,target=/locks/demo.txt \
    python -m pip --python /opt/venv install --no-deps --require-hashes -r /locks/demo.txt

# ---- this project's own files, compiled here because the containers cannot write --------------------------------------
FROM ${BASE} AS service-files
WORKDIR /app
COPY service/ service/
COPY ipu_supervisor/*.py ipu_supervisor/
COPY ipu_supervisor/models/ ipu_supervisor/models/
COPY ipu_supervisor/protocol/ ipu_supervisor/protocol/
COPY deploy/docker/ready.py ./
RUN python -m compileall -q .

FROM ${BASE} AS supervisor-files
WORKDIR /app
COPY ipu_supervisor/ ipu_supervisor/
RUN python -m compileall -q .

# ---- the web half -----------------------------------------------------------------------------------------------------
FROM ${BASE} AS service
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SUPERVISOR_ENDPOINT=ipc:///run/model-server/supervisor.sock
WORKDIR /app
# The two halves share the group 10001, to which the supervisor opens its socket.
RUN install -d -o 10001 -g 10001 -m 0750 /run/model-server
COPY --from=service-environment /opt/venv /opt/venv
COPY --from=service-files /app /app
USER 10002:10001
EXPOSE 8100
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --start-interval=1s --retries=3 CMD ["python", "ready.py"]
CMD ["python", "-m", "gunicorn", "-c", "service/gunicorn_conf.py", "service.wsgi:app"]

# ---- the supervisor on CPU and CUDA -----------------------------------------------------------------------------------
FROM ${BASE} AS supervisor
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SUPERVISOR_ENDPOINT=ipc:///run/model-server/supervisor.sock \
    HOME=/tmp USER=supervisor \
    HF_HOME=/var/cache/model-server/huggingface
WORKDIR /app
RUN install -d -o 10001 -g 10001 -m 0750 /run/model-server \
    && install -d -o 10001 -g 10001 /var/cache/model-server /var/cache/model-server/huggingface
COPY --from=supervisor-environment /opt/venv /opt/venv
COPY --from=supervisor-files /app /app
USER 10001:10001
# Healthy: it answers. Whether its models are ready is the web half's health.
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m --start-interval=1s --retries=3 \
    CMD ["python", "-m", "ipu_supervisor", "status"]
CMD ["python", "-m", "ipu_supervisor", "run"]

# ---- the supervisor on IPUs: Graphcore's image with its own Python 3.8, torch and poptorch ------------------------------
FROM ${IPU_BASE} AS ipu-packages
# hadolint ignore=DL3002  # nothing runs as this stage; the image below has a user of its own
USER 0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/wheels
# In folders of their own, so that nothing of the image's is replaced. /opt/build holds a pip that knows today's wheels, and
# what builds the one package that has none.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=deploy/docker/pip-py38.txt,target=/locks/pip-py38.txt \
    python3 -m pip install --no-cache-dir --no-deps --require-hashes --target /opt/build -r /locks/pip-py38.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements/ipu-build.txt,target=/locks/ipu-build.txt \
    --mount=type=bind,source=requirements/supervisor-ipu.txt,target=/locks/supervisor-ipu.txt \
    export PYTHONPATH="/opt/build${PYTHONPATH:+:$PYTHONPATH}" \
    && python3 -m pip install --no-deps --require-hashes --target /opt/build -r /locks/ipu-build.txt \
    && python3 -m pip install --no-deps --require-hashes --no-build-isolation --target /opt/packages \
        -r /locks/supervisor-ipu.txt

FROM ${IPU_BASE} AS supervisor-ipu
USER 0
ENV PYTHONPATH=/opt/packages${PYTHONPATH:+:$PYTHONPATH} \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SUPERVISOR_ENDPOINT=ipc:///run/model-server/supervisor.sock \
    HOME=/tmp USER=supervisor \
    HF_HOME=/var/cache/model-server/huggingface \
    POPTORCH_CACHE_DIR=/var/cache/model-server/executables
WORKDIR /app
RUN install -d -o 10001 -g 10001 -m 0750 /run/model-server \
    && install -d -o 10001 -g 10001 /var/cache/model-server /var/cache/model-server/huggingface \
        /var/cache/model-server/executables
COPY --from=ipu-packages /opt/packages /opt/packages
COPY ipu_supervisor/ ipu_supervisor/
RUN python3 -m compileall -q /app
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m --start-interval=1s --retries=3 \
    CMD ["python3", "-m", "ipu_supervisor", "status"]
CMD ["python3", "-m", "ipu_supervisor", "run"]

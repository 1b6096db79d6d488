# raygen for a Ray cluster on Kubernetes: what raygen cluster manifest writes runs in it.
#
#   docker build --tag raygen:0.1.0 .                            for CPUs
#   docker build --tag raygen:0.1.0-gpu --build-arg DEVICE=gpu . for NVIDIA GPUs
#
# EXTRAS are those of pyproject.toml; add demo for sample:digits, transforms, efficientnet or onnx where a spec needs them.
ARG PYTHON=3.11
ARG DEVICE=cpu

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm AS base
# KubeRay's probes call wget. Debian keeps only the latest version of a package, so none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 raygen

# Torch comes first: it is most of the image, and changes least. PyPI has it for CUDA.
FROM base AS gpu
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt torch

# PyPI has torch with CUDA. PyTorch's own index has it without, some GB smaller: --build-arg TORCH_INDEX=…, see pytorch.org/get-started.
# From there comes nothing else: what torch needs is installed with raygen.
FROM base AS cpu
ARG TORCH_INDEX
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir ${TORCH_INDEX:+--no-deps --index-url "${TORCH_INDEX}"} --constraint /constraints.txt torch

FROM ${DEVICE}
LABEL org.opencontainers.image.title="raygen" \
    org.opencontainers.image.description="Parquet in; a trained generator, a synthetic dataset that can be trusted, and an endpoint out. On Ray." \
    org.opencontainers.image.licenses="Apache-2.0"
ARG EXTRAS=s3,report,quality,serve
# Into the system's Python: KubeRay may start Ray in a login shell, which knows no other PATH.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt "$(echo /wheels/raygen-*.whl)[${EXTRAS}]" \
    && pip check \
    && raygen --version

ENV PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/usr/local/bin/raygen-haproxy
USER 1000:1000
WORKDIR /home/raygen
CMD ["raygen", "--help"]

# The command `thinslice` as a container, which is also a processing module of the DICOM router mercure.
#
#   podman build -t thinslice .
#   podman run --rm -v "$PWD:/data" thinslice /data/scan.nii.gz /data/out
#
# PyTorch comes from the package index that pip is set to. PyTorch's own index has a build for the CPU alone, which is
# several GB smaller, and builds for each CUDA: --build-arg TORCH_INDEX=ADDRESS. docs/container.md has the commands.
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
ARG TORCH_INDEX=""
ARG TORCH="torch"
ARG EXTRAS=""
WORKDIR /source
RUN python3 -m venv /opt/thinslice
ENV PATH=/opt/thinslice/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# PyTorch first, in a layer of its own: it is the largest by far, and does not change with the source
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
COPY pyproject.toml README.md LICENSE requirements*.txt ./
COPY tools/wheel_metadata.py tools/wheel_metadata.py
COPY bundle bundle
COPY phantom phantom
COPY thinslice thinslice
RUN grep -v -i -E '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' constraints.txt > /tmp/constraints.txt \
    && pip install -c /tmp/constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM ${BASE}
# the numbers of a user that no other program has; mercure and rootless podman may choose others
RUN useradd --uid 10001 --create-home thinslice
COPY --from=build /opt/thinslice /opt/thinslice
ENV PATH=/opt/thinslice/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/var/cache/thinslice
RUN mkdir -p -m 1777 /var/cache/thinslice && install -d -o thinslice /var/spool/thinslice
USER thinslice
VOLUME /var/cache/thinslice
WORKDIR /data
# mercure gives no command, only its two folders
ENTRYPOINT ["/bin/sh", "-c", "if [ -n \"$MERCURE_IN_DIR\" ]; then exec thinslice mercure; else exec thinslice \"$@\"; fi", "thinslice"]

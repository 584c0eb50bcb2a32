# syntax=docker/dockerfile:1
# dibs with its private store on a volume, in two stages. The second has no compiler, pip cache or
# sources, only an environment installed from requirements.txt, with every file checked by its hash.
#
#   docker build -t dibs .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -p 8080:8080 -v dibs:/data -e DIBS_TEAM_KEY=… dibs
#
# For a build that stays reproducible, pin the base by digest:
#   docker build --build-arg BASE=python:3.13-slim-bookworm@sha256:… .
# Each step is a separate command, so that a test can run it as written.
# hadolint global ignore=DL3059
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements.txt ./
RUN python -m venv /opt/dibs
RUN /opt/dibs/bin/python -m pip install --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md ./
COPY service ./service
COPY client ./client
COPY skill ./skill
# SOURCE_DATE_EPOCH: the same sources make the same wheel.
RUN SOURCE_DATE_EPOCH=1700000000 /opt/dibs/bin/python -m pip wheel --no-deps --no-build-isolation -w dist .
RUN /opt/dibs/bin/python -m pip install --no-deps --no-index --find-links dist dibs
# Remove the packages that only development uses, although the framework lists them as dependencies,
# then those that only installation uses. Compile the rest once; the compiled files depend on the
# sources' contents, not on their times.
RUN /opt/dibs/bin/python -m pip uninstall -y -q faker polyfactory rich rich-click markdown-it-py mdurl pygments httpx httpcore certifi
RUN /opt/dibs/bin/python -m pip uninstall -y -q editables hatchling pathspec tomlkit trove-classifiers setuptools pip
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/dibs/lib

FROM ${BASE}
# The user that the container starts as. Use 0:0 only if root owns the mounted volume: enter.py then
# drops root.
ARG RUN_AS=10001:10001
COPY --from=build /opt/dibs /opt/dibs
COPY docs/ops/enter.py /opt/dibs/enter.py
RUN install -d -m 700 -o 10001 -g 10001 /data
ENV PATH=/opt/dibs/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DIBS_HOST=0.0.0.0 \
    DIBS_PORT=8080 \
    DIBS_DATA_DIR=/data/dibs
USER ${RUN_AS}
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['DIBS_PORT'] + '/readyz', timeout=2)"]
ENTRYPOINT ["python", "/opt/dibs/enter.py"]
CMD ["serve"]

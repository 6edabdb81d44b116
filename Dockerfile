# The sink, and the small helpers of docker-compose.yml: agent-telemetry on Python, as the user 10001.
# What it installs is pinned with hashes; what it holds besides is Debian and Python.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PATH=/opt/agent-telemetry/bin:$PATH

COPY requirements/sink.txt /tmp/sink.txt
RUN python3 -m venv /opt/agent-telemetry \
    && pip install --quiet --require-hashes --only-binary :all: --requirement /tmp/sink.txt \
    && rm /tmp/sink.txt \
    && python -m compileall -q /opt/agent-telemetry/lib

# No build step: the two packages are pure Python, and a change of theirs rebuilds these layers alone.
COPY agent_shim /opt/agent-telemetry/src/agent_shim
COPY telemetry /opt/agent-telemetry/src/telemetry
COPY collector_config/sink-entry.sh /usr/local/bin/agent-telemetry
ENV PYTHONPATH=/opt/agent-telemetry/src AGENT_TELEMETRY_HOME=/var/lib/agent-telemetry
RUN chmod 0755 /usr/local/bin/agent-telemetry \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/agent-telemetry

USER 10001:10001
EXPOSE 4319
STOPSIGNAL SIGTERM
ENTRYPOINT ["agent-telemetry"]
CMD ["sink", "--host", "0.0.0.0"]

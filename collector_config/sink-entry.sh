#!/bin/sh
# Secrets come as files, named by <VARIABLE>_FILE; only this process gets their content, and no command line
# and no `docker inspect` shows it.
set -eu
if [ -n "${AGENT_TELEMETRY_SINK_TOKEN_FILE:-}" ]; then
    AGENT_TELEMETRY_SINK_TOKEN=$(cat "$AGENT_TELEMETRY_SINK_TOKEN_FILE")
    export AGENT_TELEMETRY_SINK_TOKEN
fi
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
exec python -m telemetry.cli "$@"

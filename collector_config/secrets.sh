#!/bin/sh
# Makes the secrets of docker-compose.yml where they are missing, and prints the journal's URL for this machine:
#   export AGENT_TELEMETRY_JOURNAL="$(sh collector_config/secrets.sh)"
# Usage: sh collector_config/secrets.sh [FOLDER]
set -eu
folder=${1:-$(dirname "$0")/../.secrets}
umask 077
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# Compose mounts each file alone, with the owner and the mode that it has here, and the users inside are others:
# so the files can be read by all, and the folder by nobody else.
for name in postgres_password sink_token; do
    test -s "$folder/$name" && continue
    od -An -N 24 -t x1 /dev/urandom | tr -d ' \n' >"$folder/$name.new"
    chmod 0444 "$folder/$name.new"
    mv "$folder/$name.new" "$folder/$name"
done

# For libpq, which reads no file that others could read. A URL that names a file holds no password.
port=${POSTGRES_PORT:-5432}
printf '127.0.0.1:*:agent_telemetry:agent_telemetry:%s\n' "$(cat "$folder/postgres_password")" >"$folder/pgpass"
echo "postgresql://agent_telemetry@127.0.0.1:$port/agent_telemetry?passfile=$folder/pgpass"

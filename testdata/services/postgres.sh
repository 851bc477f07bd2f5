#!/bin/sh
# Makes the data directory at the first start.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --auth-local=trust --auth-host=scram-sha-256 --no-sync --pwfile=/dev/stdin >/dev/null <<-EOF
	$POSTGRES_PASSWORD
	EOF
	echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
fi
exec "$@"

#!/bin/bash
# Run once by PostgreSQL's image, over an empty volume: the tables belong to a role that the nodes do not have, so that
# they cannot rewrite the log.
set -euo pipefail
psql --set ON_ERROR_STOP=1 --no-password --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set owner_password `cat /run/secrets/db_migrate_password`
\set server_password `cat /run/secrets/db_password`
create role traffic_manager_owner login password :'owner_password';
create role traffic_manager login password :'server_password';
select format('alter database %I owner to traffic_manager_owner', current_database()) \gexec
select format('revoke connect, temporary on database %I from public', current_database()) \gexec
select format('grant connect on database %I to traffic_manager', current_database()) \gexec
SQL

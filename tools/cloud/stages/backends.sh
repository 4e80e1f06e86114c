# Database, message bus and cache, started by hand, on loopback only.
# shellcheck shell=bash

MIGRATED=(keystone glance placement neutron nova_api nova nova_cell0 cinder)
DATABASES=("${MIGRATED[@]}" zun) # the agent migrates its own when it starts

sql() { mariadb --no-defaults -S "$RUN/mysql.sock" -uroot --batch --skip-column-names -e "$1"; }

stage_mariadb() {
    local data=$STATE/mysql statements='' name
    if [ ! -d "$data/mysql" ]; then
        rm -rf "$data"
        mariadb-install-db --no-defaults --user=root --datadir="$data" \
            --auth-root-authentication-method=normal --skip-test-db
    fi
    start_service mariadb
    answers mariadb
    for name in "${DATABASES[@]}"; do statements+="create database if not exists $name;"; done
    statements+="create user if not exists allinone@'$IP' identified by '$PASSWORD';"
    sql "$statements grant all on *.* to allinone@'$IP';"
}

# Not as durable as a cloud's own: what is committed outlives the server's death, not the machine's.
start_mariadb() {
    local command=(mariadbd --no-defaults --user=root --datadir="$STATE/mysql"
        --bind-address=$IP --port="$DB_PORT" --socket="$RUN/mysql.sock"
        --pid-file="$RUN/mysqld.pidfile" --skip-log-bin --performance-schema=off
        --innodb-flush-log-at-trx-commit=2 --innodb-doublewrite=0
        --innodb-buffer-pool-size=256M --max-connections=1000
        --character-set-server=utf8mb4 --collation-server=utf8mb4_general_ci --skip-name-resolve)
    start mariadb "$(cksum <<<"${command[*]}" | tr ' ' -)" "${command[@]}"
}

stage_rabbitmq() {
    render rabbitmq.conf | put "$ETC/rabbitmq.conf"
    start_service rabbitmq
}

start_rabbitmq() {
    start rabbitmq - env HOME="$STATE/rabbit/home" RABBITMQ_NODENAME=allinone@localhost \
        RABBITMQ_NODE_IP_ADDRESS=$IP RABBITMQ_NODE_PORT="$MQ_PORT" \
        RABBITMQ_DIST_PORT="$MQ_DIST_PORT" ERL_EPMD_ADDRESS=$IP ERL_EPMD_PORT="$EPMD_PORT" \
        RABBITMQ_CONFIG_FILE="$ETC/rabbitmq.conf" RABBITMQ_MNESIA_BASE="$STATE/rabbit" \
        RABBITMQ_LOG_BASE="$LOG" RABBITMQ_PID_FILE="$RUN/rabbit.pidfile" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$ETC/rabbit_plugins" \
        RABBITMQ_CONF_ENV_FILE="$ETC/rabbitmq-env.conf" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none' \
        /usr/lib/rabbitmq/bin/rabbitmq-server
}

stage_memcached() { start_service memcached; }

start_memcached() {
    start memcached - memcached -u root -l $IP -p "$MEMCACHE_PORT" -m 64
}

message_bus_up() { (: <"/dev/tcp/$IP/$MQ_PORT"); }

# Migrations take most of the time of a first start, and always come to the same: their outcome is
# kept beside the software, for that software and those settings.
stage_databases() {
    local outcome
    [ ! -e "$STATE/done/databases" ] || return 0
    outcome=$ALLINONE_CACHE/databases-$(stamp_of "$CLOUD/requirements.txt" "$ETC/nova/nova.conf" \
        "$ETC/keystone/keystone.conf").sql
    if [ -e "$outcome" ]; then
        keystone_keys &
        mariadb --no-defaults -S "$RUN/mysql.sock" -uroot <"$outcome"
        wait $!
    else
        migrate
        rm -f "$ALLINONE_CACHE"/databases-*.sql
        mariadb-dump --no-defaults -S "$RUN/mysql.sock" -uroot \
            --databases "${MIGRATED[@]}" >"$outcome.new"
        mv "$outcome.new" "$outcome"
    fi
    touch "$STATE/done/databases"
}

# Each service's migrations one after the other, the services side by side.
migrate() {
    local service pids=() rc=0 pid
    for service in keystone neutron nova glance placement cinder; do
        "sync_$service" >"$LOG/sync-$service.log" 2>&1 ||
            fail "$LOG/sync-$service.log" "migrations of $service" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || rc=1; done
    return $rc
}

keystone_manage() { keystone-manage --config-file "$ETC/keystone/keystone.conf" "$@"; }
nova_manage() { nova-manage --config-file "$ETC/nova/nova.conf" "$@"; }

keystone_keys() {
    keystone_manage fernet_setup --keystone-user root --keystone-group root &&
        keystone_manage credential_setup --keystone-user root --keystone-group root
}

sync_keystone() {
    keystone_manage db_sync && keystone_keys &&
        keystone_manage bootstrap --bootstrap-password "$PASSWORD" \
            --bootstrap-region-id "$REGION" --bootstrap-public-url "$KEYSTONE_URL" \
            --bootstrap-internal-url "$KEYSTONE_URL" --bootstrap-admin-url "$KEYSTONE_URL"
}
sync_glance() { glance-manage --config-file "$ETC/glance/glance-api.conf" db_sync; }
sync_placement() { placement-manage --config-file "$ETC/placement/placement.conf" db sync; }
sync_cinder() { cinder-manage --config-file "$ETC/cinder/cinder.conf" db sync; }
sync_neutron() {
    neutron-db-manage --config-file "$ETC/neutron/neutron.conf" \
        --config-file "$ETC/neutron/ml2_conf.ini" upgrade heads
}
sync_nova() {
    nova_manage api_db sync &&
        nova_manage cell_v2 map_cell0 --database_connection "$(database nova_cell0)" &&
        { nova_manage cell_v2 list_cells | grep -q cell1 ||
            nova_manage cell_v2 create_cell --name cell1; } &&
        nova_manage db sync
}

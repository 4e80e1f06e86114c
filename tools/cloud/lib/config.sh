# Configuration files: rendered from config/*, and stamped so that a change restarts its service.
# shellcheck shell=bash

# render TEMPLATE: its text with this shell's ${variables} and $(functions) put in.
render() {
    eval "cat <<__END_OF_TEMPLATE__
$(<"$CLOUD/config/$1")
__END_OF_TEMPLATE__"
}

# put FILE [MODE [GROUP]]: writes standard input there when it differs.
put() {
    local new
    new=$(mktemp -p "$RUN")
    cat >"$new"
    if ! cmp -s "$new" "$1"; then
        install -m "${2:-640}" -g "${3:-root}" "$new" "$1"
    fi
    rm -f "$new"
}

# stamp_of FILE...: one word that changes with their contents.
stamp_of() { cat "$@" | cksum | tr ' ' -; }

database() { echo "mysql+pymysql://allinone:$PASSWORD@$IP:$DB_PORT/$1?charset=utf8mb4"; }
message_bus() { echo "rabbit://allinone:$PASSWORD@$IP:$MQ_PORT/"; }

# credentials SECTION USER: a section by which keystoneauth acts as that service user.
credentials() {
    cat <<X
[$1]
auth_type = password
auth_url = $KEYSTONE_URL
username = $2
password = $PASSWORD
project_name = service
user_domain_name = Default
project_domain_name = Default
region_name = $REGION
X
}

# token_check USER: how a service checks its callers' tokens.
token_check() {
    credentials keystone_authtoken "$1"
    cat <<X
www_authenticate_uri = $KEYSTONE_URL
memcached_servers = $IP:$MEMCACHE_PORT
service_token_roles = service
service_token_roles_required = true
X
}

# service_base NAME USER: what every service's file holds.
service_base() {
    cat <<X
[database]
connection = $(database "$1")
max_pool_size = 10
[oslo_concurrency]
lock_path = $STATE/lock
[oslo_messaging_notifications]
driver = noop
$(token_check "$2")
X
}

# privsep_sections COMMAND SECTION...
privsep_sections() {
    local command=$1 section
    shift
    for section in "$@"; do printf '[%s]\nhelper_command = %s\n' "$section" "$command"; done
}

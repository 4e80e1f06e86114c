# The services: how each is started, on which port, and when it is ready.
# shellcheck shell=bash

# In the order of status; a service that is not started by this tool shows as "not ours".
BACKENDS=(mariadb rabbitmq memcached containerd dockerd registry)
SERVICES=(keystone placement glance neutron-api neutron-rpc neutron-periodic neutron-ovs-agent
    neutron-dhcp neutron-l3 neutron-metadata nova-api nova-conductor nova-scheduler nova-metadata
    nova-compute cinder-api cinder-scheduler cinder-volume zun-agent)
declare -A PORTS=([mariadb]=$DB_PORT [rabbitmq]=$MQ_PORT [memcached]=$MEMCACHE_PORT
    [registry]=$REGISTRY_PORT [keystone]=$KEYSTONE_PORT [placement]=$PLACEMENT_PORT
    [glance]=$GLANCE_PORT [neutron-api]=$NEUTRON_PORT [nova-api]=$NOVA_PORT
    [nova-metadata]=$METADATA_PORT [cinder-api]=$CINDER_PORT [zun-agent]=$AGENT_PORT)

# wsgi NAME WORKERS MODULE STAMP [uwsgi arguments...]
wsgi() {
    local name=$1 workers=$2 module=$3 stamp=$4
    shift 4
    start "$name" "$stamp" uwsgi --http-socket "$IP:${PORTS[$name]}" \
        --module "$module:application" --master --no-orphans --lazy-apps --need-app \
        --processes "$workers" --threads 1 --enable-threads --die-on-term --buffer-size 65535 \
        --listen 100 --worker-reload-mercy 5 --add-header 'Connection: close' \
        --disable-logging --log-5xx --procname-prefix "$name " --pyargv '' "$@"
}

# start_service NAME: starts it unless it runs from its present configuration.
start_service() {
    local neutron=(--config-file "$ETC/neutron/neutron.conf") nova=(--config-file "$ETC/nova/nova.conf")
    local ml2=$ETC/neutron/ml2_conf.ini stamp
    case $1 in
        keystone | placement | glance | neutron-api | nova-api | nova-metadata | cinder-api)
            start_api "$1" ;;
        neutron-rpc) start "$1" "$(stamp_of "${neutron[1]}" "$ml2")" \
            neutron-rpc-server "${neutron[@]}" --config-file "$ml2" ;;
        neutron-periodic) start "$1" "$(stamp_of "${neutron[1]}" "$ml2")" \
            neutron-periodic-workers "${neutron[@]}" --config-file "$ml2" ;;
        neutron-ovs-agent) start_neutron_agent "$1" neutron-openvswitch-agent openvswitch_agent ;;
        neutron-dhcp) start_neutron_agent "$1" neutron-dhcp-agent dhcp_agent ;;
        neutron-l3) start_neutron_agent "$1" neutron-l3-agent l3_agent ;;
        neutron-metadata) start_neutron_agent "$1" neutron-metadata-agent metadata_agent ;;
        nova-conductor | nova-scheduler) start "$1" "$(stamp_of "${nova[1]}")" "$1" "${nova[@]}" ;;
        nova-compute) start_compute "$1" "$HOST" ;;
        nova-compute-fake) start_compute "$1" "$FAKE_HOST" ;;
        cinder-scheduler | cinder-volume)
            start "$1" "$(stamp_of "$ETC/cinder/cinder.conf" "$ETC/cinder/files_driver.py")" \
                env PYTHONPATH="$ETC/cinder" "$1" --config-file "$ETC/cinder/cinder.conf" ;;
        zun-agent)
            stamp=$(stamp_of "$ETC/zun/zun-agent.conf" "$VENV/.zun-virt")
            as_user zun
            start "$1" "$stamp" "${AS[@]}" "$VENV/bin/zun-agent" \
                --config-file "$ETC/zun/zun-agent.conf" ;;
        containerd | dockerd | registry) start_engine "$1" ;;
        *-2) start_second "$1" ;;
        *-vm) start_vm "$1" ;;
        mariadb | rabbitmq | memcached) "start_$1" ;;
        *) die "no service $1" ;;
    esac
}

start_engine() {
    case $1 in
        containerd) start "$1" - containerd ;;
        dockerd)
            forget_dead_docker /var/run/docker.pid
            start "$1" - dockerd --live-restore --registry-mirror="http://$REGISTRY" \
                --containerd /run/containerd/containerd.sock ;;
        registry) start "$1" "$(stamp_of "$ETC/registry.yml")" \
            docker-registry serve "$ETC/registry.yml" ;;
    esac
}

# forget_dead_docker FILE: dockerd does not start where the process of its pid file is a zombie, which pid 1 of a container
# may not reap.
forget_dead_docker() {
    [ ! -e "$1" ] || [ -n "$(pid_started "$(cat "$1")")" ] || rm -f "$1"
}

start_api() {
    local conf=$ETC/${1%-*}
    case $1 in
        keystone) OS_KEYSTONE_CONFIG_DIR=$conf wsgi "$1" "$API_WORKERS" keystone.wsgi.api \
            "$(stamp_of "$conf/keystone.conf")" ;;
        placement) OS_PLACEMENT_CONFIG_DIR=$conf wsgi "$1" 1 placement.wsgi.api \
            "$(stamp_of "$conf/placement.conf")" ;;
        # a Docker archive comes in chunks of 2 MiB, uWSGI's own limit is 1 MiB
        glance) OS_GLANCE_CONFIG_DIR=$conf wsgi "$1" 1 glance.wsgi.api \
            "$(stamp_of "$conf/glance-api.conf")" --chunked-input-timeout 60 \
            --chunked-input-limit 67108864 ;;
        neutron-api) OS_NEUTRON_CONFIG_DIR=$conf OS_NEUTRON_CONFIG_FILES='neutron.conf;ml2_conf.ini' \
            wsgi "$1" "$API_WORKERS" neutron.wsgi.api \
            "$(stamp_of "$conf/neutron.conf" "$conf/ml2_conf.ini")" --env start-time=%t ;;
        nova-api) OS_NOVA_CONFIG_DIR=$conf wsgi "$1" "$API_WORKERS" nova.wsgi.osapi_compute \
            "$(stamp_of "$conf/nova.conf" "$conf/policy.yaml")" ;;
        nova-metadata) OS_NOVA_CONFIG_DIR=$conf wsgi "$1" 1 nova.wsgi.metadata \
            "$(stamp_of "$conf/nova.conf")" ;;
        cinder-api) OS_CINDER_CONFIG_DIR=$conf wsgi "$1" 1 cinder.wsgi.api \
            "$(stamp_of "$conf/cinder.conf")" --pyargv "--config-file $conf/cinder.conf" ;;
    esac
}

# start_neutron_agent NAME COMMAND FILE
start_neutron_agent() {
    start "$1" "$(stamp_of "$ETC/neutron/neutron.conf" "$ETC/neutron/$3.ini")" \
        "$2" --config-file "$ETC/neutron/neutron.conf" --config-file "$ETC/neutron/$3.ini"
}

# start_compute NAME HOST [VARIABLE=VALUE...]: as user nova; what needs root goes through sudo and
# privsep.
start_compute() {
    local conf=$ETC/nova-compute-$2/nova.conf stamp
    stamp=$(stamp_of "$conf" "$VENV/.zun-virt")
    as_user nova
    start "$1" "$stamp" "${AS[@]}" "${@:3}" "$VENV/bin/nova-compute" --config-file "$conf"
}

# answers NAME: waits for a service that is asked over HTTP, for an engine, and for nova-compute:
# a server that one is given before it listens fails.
answers() {
    case $1 in
        keystone | placement | glance | neutron-api | nova-api | nova-metadata | cinder-api | zun-agent)
            wait_for 90 "$1" http_up "http://$IP:${PORTS[$1]}/" ;;
        registry) wait_for 30 "$1" http_up "http://$REGISTRY/v2/" ;;
        containerd) wait_for 30 "$1" containerd_up ;;
        containerd-2) wait_for 30 "$1" containerd_up "$SECOND_DIR/run/containerd.sock" ;;
        dockerd) wait_for 60 "$1" docker_up ;;
        dockerd-2) DOCKER_HOST=$SECOND_DOCKER wait_for 60 "$1" docker_up ;;
        vswitchd-2) wire_second ;;
        libvirtd-vm) wait_for 30 "$1" libvirt_up ;;
        zun-agent-2) wait_for 90 "$1" http_up "http://$LINK_THERE:$AGENT_PORT/" ;;
        nova-compute*) wait_for 90 "$1" joined "$1" ;;
        mariadb) wait_for 60 "$1" sql 'select 1' ;;
        rabbitmq) wait_for 60 "$1" message_bus_up ;;
    esac
}

stage_keystone() {
    start_service keystone
    answers keystone
}

# In the order in which others wait for them.
stage_services() {
    local name
    wait_for 60 rabbitmq message_bus_up
    for name in placement neutron-api glance nova-api neutron-rpc nova-conductor nova-scheduler \
        neutron-ovs-agent neutron-periodic; do
        start_service $name
    done
    answers placement
    for name in nova-compute cinder-api neutron-dhcp neutron-l3 neutron-metadata nova-metadata \
        cinder-scheduler cinder-volume zun-agent; do
        start_service $name
    done
    for name in glance neutron-api nova-api cinder-api zun-agent nova-compute; do answers $name; done
}

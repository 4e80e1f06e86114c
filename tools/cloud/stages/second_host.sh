# A second sandbox host on this machine: its own Docker Engine, switch, agents and nova-compute, in
# namespaces of its own. See tools/cloud/hold-host.
# shellcheck shell=bash

# In the order in which they start; the first three and their containers outlive `down`.
SECOND_SERVICES=(host-2 ovsdb-2 vswitchd-2 containerd-2 dockerd-2 neutron-ovs-agent-2
    nova-compute-2 zun-agent-2)
CGROUPS=/sys/fs/cgroup
SECOND_GROUP=zun-second
SECOND_OVS=$SECOND_DIR/openvswitch
LINK=zun-second TUNNEL=zun-tunnel # this machine's ends of the two links
RULE=(-m comment --comment zun-allinone)
# What the second host finds on its own loopback address as if it were there.
REACHED=("$KEYSTONE_PORT" "$PLACEMENT_PORT" "$GLANCE_PORT" "$NEUTRON_PORT" "$NOVA_PORT"
    "$METADATA_PORT" "$CINDER_PORT" "$AGENT_PORT" "$DB_PORT" "$MQ_PORT" "$MEMCACHE_PORT"
    "$REGISTRY_PORT")

second_wanted() { [ -e "$STATE/done/second-host" ]; }

stage_second_host() {
    [ ! -e "$CGROUPS/cgroup.controllers" ] || die 'a second host needs control groups of version 1'
    touch "$STATE/done/second-host"
    config_second
    running host-2 || hold_second
    link_second
    start_switch_second
    start_service containerd-2
    start_service neutron-ovs-agent-2
    answers containerd-2 # or the engine would for ever call running what ended with the host
    start_service dockerd-2
    answers dockerd-2
    start_service nova-compute-2
    start_service zun-agent-2
    answers zun-agent-2
    answers nova-compute-2
    seed second
}

config_second() {
    local HOST=$SECOND_HOST SANDBOX_STATE=$SECOND_STATE DOCKER_URL=$SECOND_DOCKER
    local COMPUTE_IP=$LINK_THERE TUNNEL_IP=$TUNNEL_THERE BRIDGE_MAPPINGS=
    mkdir -p "$SECOND_OVS" "$SECOND_DIR"/{run,docker}
    install -d -o nova -g zun -m 2775 "$SECOND_STATE"
    config_compute "$SECOND_HOST"
    render zun-agent.conf | put "$ETC/zun/zun-agent-2.conf" 640 zun
    render openvswitch_agent.ini | put "$ETC/neutron/openvswitch_agent-2.ini"
    render docker-2.json | put "$ETC/docker-2.json"
    render containerd-2.toml | put "$ETC/containerd-2.toml"
    render on-second-host | put "$ON_SECOND" 755
}

# What ran in namespaces whose holder is gone cannot be reached any more.
hold_second() {
    forget_second
    rm -f "$SECOND_DIR/run/held"
    start_service host-2
    wait_for 10 host-2 test -e "$SECOND_DIR/run/held"
}

# Two links. By one the second host reaches the services, at 127.0.0.1 as on the first host; the
# other joins the two switches, which carry their tunnels themselves.
link_second() {
    local pid reached
    ! ip link show "$LINK" >/dev/null 2>&1 || return 0
    read -r pid _ <"$RUN/host-2.pid"
    ip link add "$LINK" type veth peer name "$LINK" netns "$pid"
    ip link add "$TUNNEL" type veth peer name "$TUNNEL" netns "$pid"
    ip addr add "$LINK_HERE/30" dev "$LINK"
    ip link set "$LINK" up
    ip link set "$TUNNEL" up
    ovs-vsctl --timeout=10 --may-exist add-port br-vtep "$TUNNEL"
    # to loopback from this link only
    echo 1 >"/proc/sys/net/ipv4/conf/$LINK/route_localnet"
    forget_rules
    iptables -t nat -A PREROUTING -i "$LINK" -d "$LINK_HERE" -p tcp "${RULE[@]}" \
        -j DNAT --to-destination "$IP"
    iptables -t nat -A INPUT -i "$LINK" -s "$LINK_THERE" -p tcp "${RULE[@]}" \
        -j SNAT --to-source "$IP"
    reached=$(IFS=,; echo "${REACHED[*]}")
    "$ON_SECOND" bash -eu -c "
        ip addr add $LINK_THERE/30 dev $LINK
        ip link set $LINK up
        ip link set $TUNNEL up
        echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
        iptables -t nat -A OUTPUT -o lo -d $IP -p tcp -m multiport --dports $reached \
            -j DNAT --to-destination $LINK_HERE
        iptables -t nat -A POSTROUTING -o $LINK -s $IP -j SNAT --to-source $LINK_THERE"
}

forget_rules() {
    local rule
    iptables -t nat -S 2>/dev/null | grep -- '--comment zun-allinone' | while read -r rule; do
        # shellcheck disable=SC2086
        iptables -t nat -D ${rule#-A }
    done || true # grep found none
}

ovs_second() { "$ON_SECOND" ovs-vsctl --timeout=10 "$@"; }

start_switch_second() {
    [ -e "$SECOND_OVS/conf.db" ] ||
        ovsdb-tool create "$SECOND_OVS/conf.db" /usr/share/openvswitch/vswitch.ovsschema
    start_service ovsdb-2
    wait_for 10 ovsdb-2 ovs_second --no-wait init
    ovs_second --no-wait set Open_vSwitch . external-ids:system-id="$SECOND_HOST"
    start_service vswitchd-2
    wire_second
}

wire_second() {
    ovs_second \
        --may-exist add-br br-vtep -- set bridge br-vtep datapath_type=netdev \
        -- --may-exist add-port br-vtep "$TUNNEL" \
        -- --may-exist add-br br-int -- set bridge br-int datapath_type=netdev fail_mode=secure
    # where the database knew it before, nothing above waits for it
    wait_for 10 vswitchd-2 "$ON_SECOND" ip link show br-vtep
    "$ON_SECOND" ip addr replace "$TUNNEL_THERE/30" dev br-vtep
    "$ON_SECOND" ip link set br-vtep up
}

# Its records go too.
stage_no_second_host() {
    no_servers_on "$SECOND_HOST"
    stop_all 10 nova-compute-2 zun-agent-2 neutron-ovs-agent-2
    stop dockerd-2
    forget_second
    forget_rules
    seed no-second
    sql "delete from zun.services where host = '$SECOND_HOST'"
    rm -rf --one-file-system "$SECOND_DIR" "$STATE/nova-compute-$SECOND_HOST" \
        "$STATE/done/second-host"
}

# start_second NAME: one of its services.
start_second() {
    # of the suite is what the engine runs, whose command says no more than where to look for it
    local stamp suite=${SECOND_SUITE:--} conf=$ETC/nova-compute-$SECOND_HOST/nova.conf
    local neutron=("$ETC/neutron/neutron.conf" "$ETC/neutron/openvswitch_agent-2.ini")
    local engine=("$ON_SECOND" env "PATH=$SECOND_ENGINE/usr/sbin:$SECOND_ENGINE/usr/bin:$PATH")
    case $1 in
        host-2) start "$1" - "$CLOUD/hold-host" "$SECOND_HOST" "$SECOND_GROUP" "$SECOND_DIR" \
            "$SANDBOX_STATE" "$(readlink -f /run/docker)" "$(readlink -f /run/netns)" \
            "$(docker info -f '{{.DockerRootDir}}')" ;;
        ovsdb-2) start "$1" - "$ON_SECOND" ovsdb-server "$SECOND_OVS/conf.db" \
            --remote="punix:$SECOND_OVS/db.sock" --remote="ptcp:$OVSDB_PORT:$IP" \
            --unixctl="$SECOND_OVS/ovsdb.ctl" -vconsole:warn -vsyslog:off ;;
        vswitchd-2) start "$1" - "$ON_SECOND" ovs-vswitchd "$OVSDB_SOCKET" \
            --unixctl="$SECOND_OVS/vswitchd.ctl" \
            -vconsole:warn -vsyslog:off ;;
        containerd-2) start "$1" "$suite" "${engine[@]}" containerd -c "$ETC/containerd-2.toml" ;;
        dockerd-2)
            forget_dead_docker "$SECOND_DIR/run/docker.pid"
            start "$1" "$suite" "${engine[@]}" dockerd --config-file "$ETC/docker-2.json" ;;
        neutron-ovs-agent-2) start "$1" "$(stamp_of "${neutron[@]}")" "$ON_SECOND" \
            neutron-openvswitch-agent "${neutron[@]/#/--config-file=}" ;;
        nova-compute-2)
            stamp=$(stamp_of "$conf" "$VENV/.zun-virt")
            as_user nova
            start "$1" "$stamp" "$ON_SECOND" "${AS[@]}" "$VENV/bin/nova-compute" \
                --config-file "$conf" ;;
        zun-agent-2)
            conf=$ETC/zun/zun-agent-2.conf
            stamp=$(stamp_of "$conf" "$VENV/.zun-virt")
            as_user zun
            start "$1" "$stamp" "$ON_SECOND" "${AS[@]}" "$VENV/bin/zun-agent" \
                --config-file "$conf" ;;
    esac
}

second_groups() { find "$CGROUPS"/*/"$SECOND_GROUP" "$@" 2>/dev/null || true; }

# Everything that runs there is in its control group: containers and their shims too. With the last
# of them go the namespaces, and with those the mounts and devices.
forget_second() {
    local i procs
    for ((i = 0; i < 50; i++)); do
        procs=$(second_groups -name cgroup.procs -exec cat {} + | sort -u)
        [ -n "$procs" ] || break
        # shellcheck disable=SC2086
        kill -KILL $procs 2>/dev/null || true
        sleep 0.1
    done
    second_groups -depth -type d -exec rmdir {} + || true
    ovs-vsctl --timeout=10 --if-exists del-port br-vtep "$TUNNEL" 2>/dev/null || true
    ip link del "$LINK" 2>/dev/null || true
    ip link del "$TUNNEL" 2>/dev/null || true
    rm -f "$RUN"/*-2.pid
}

# The host itself: directories, users, sudo, the switch, Docker Engine and the local registry.
# shellcheck shell=bash

check_machine() {
    [ "$(id -u)" = 0 ] || die 'allinone must run as root'
    command -v apt-get >/dev/null || die 'allinone needs Debian (apt-get)'
    if [ -d "$ALLINONE_DIR" ] && [ ! -e "$OWNED" ] && [ -n "$(ls -A "$ALLINONE_DIR")" ]; then
        die "$ALLINONE_DIR exists, and not by allinone: name another with ALLINONE_DIR"
    fi
    local dir=$ALLINONE_DIR
    mkdir -p "$ALLINONE_DIR"
    while [ "$dir" != / ]; do # nova and zun must get at their files below it
        [ $((0$(stat -c %a "$dir") & 1)) = 1 ] || die "other users cannot enter $dir"
        dir=$(dirname "$dir")
    done
}

make_directories() {
    mkdir -p "$ETC"/{keystone,glance,placement,nova,neutron,cinder,zun} "$LOG" "$RUN" "$BIN" \
        "$STATE"/{glance/images,glance/staging,glance/tasks,neutron,cinder/conversion,cinder/mnt} \
        "$STATE"/{cinder/share,rabbit/home,lock,nova,done}
    touch "$OWNED"
}

stage_users() {
    local user host
    getent group docker >/dev/null || groupadd --system docker
    getent group zun >/dev/null || groupadd --system zun
    for user in nova zun; do
        if ! getent passwd $user >/dev/null; then
            getent group $user >/dev/null || groupadd --system $user
            useradd --system --gid $user --no-create-home --home-dir "/var/lib/$user" \
                --shell /usr/sbin/nologin $user
        fi
        usermod -a -G docker,zun $user
        install -d -o $user -g $user -m 750 "$ALLINONE_DIR/home/$user"
    done
    install -d -o nova -g zun -m 2775 "$SANDBOX_STATE"
    for host in "$HOST" "$SECOND_HOST"; do sudoers_of "$host"; done | put_sudoers "$SUDOERS"
}

# sudoers_of HOST: the lines that an operator installs, with this cloud's paths in the place of
# theirs. In a sudoers regular expression a dot of a path is escaped.
sudoers_of() {
    sed -e "s|/usr/bin/privsep-helper|$VENV/bin/privsep-helper|" \
        -e "s|/etc/nova/nova\\\\.conf|$(regex_of "$ETC/nova-compute-$1/nova.conf")|" \
        "$REPO/etc/sudoers.d/zun-virt"
}

put_sudoers() {
    cat >"$RUN/sudoers"
    visudo -c -q -f "$RUN/sudoers" # a broken file there breaks sudo for everyone
    put "$1" 440 <"$RUN/sudoers"
}

regex_of() { printf '%s' "$1" | sed -e 's/[.]/\\\\./g'; }

stage_openvswitch() {
    if ! ovs-vsctl --timeout=5 show >/dev/null 2>&1; then
        /usr/share/openvswitch/scripts/ovs-ctl start --system-id=random --no-monitor
        touch "$STATE/started.openvswitch"
        forget_agent_ports
    fi
    ovs-vsctl --timeout=10 \
        --may-exist add-br br-ex -- set bridge br-ex datapath_type=netdev \
        -- --may-exist add-br br-vtep -- set bridge br-vtep datapath_type=netdev \
        -- --may-exist add-br br-int -- set bridge br-int datapath_type=netdev fail_mode=secure
    if [ -z "$(ovs-vsctl get-manager)" ]; then # os-vif in nova-compute is not root
        ovs-vsctl --timeout=10 set-manager "ptcp:$OVSDB_PORT:$IP"
        touch "$STATE/set.manager"
    fi
    ip addr replace "$PUBLIC_GATEWAY/${PUBLIC_CIDR#*/}" dev br-ex
    ip addr replace "$TUNNEL_HERE/30" dev br-vtep
    ip link set br-ex up
    ip link set br-vtep up
}

# A switch that starts again makes the DHCP and L3 agents' devices anew, outside the namespaces
# where they belong. The agents make what is missing, as after a boot, when nothing is there.
forget_agent_ports() {
    local port
    stop_all 5 neutron-dhcp neutron-l3 neutron-metadata
    forget_namespaces
    for port in $(ovs-vsctl --timeout=10 --bare --columns=name find interface type=internal); do
        case $port in
            tap* | qr-* | qg-*) ovs-vsctl --timeout=10 --if-exists del-port "$port" ;;
        esac
    done
}

docker_up() { docker version; }
# containerd_up [SOCKET]: by that; other hosts may have theirs
containerd_up() { ctr --address "${1:-/run/containerd/containerd.sock}" --connect-timeout 2s version; }

# An engine that runs is used as it is.
stage_docker() {
    docker_up >/dev/null 2>&1 && return 0
    # Docker makes it DROP, and leaves it so
    [ -e "$STATE/started.docker" ] || iptables -S FORWARD | head -n 1 >"$STATE/forward.policy"
    touch "$STATE/started.docker"
    # an engine that does not find it at its start would for ever call running what has ended
    containerd_up >/dev/null 2>&1 || { start_service containerd && answers containerd; }
    start_service dockerd
    answers dockerd
}

stage_registry() {
    render registry.yml | put "$ETC/registry.yml"
    start_service registry
    answers registry
}

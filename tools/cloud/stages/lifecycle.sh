# What is there, stopping it, and leaving nothing behind.
# shellcheck shell=bash

SANDBOX_LABEL=org.openstack.zun.sandbox # of zun_virt/sandbox/: on every container of ours
# What changes servers and containers, and is to end before what it uses.
COMPUTES=(nova-compute nova-compute-fake nova-compute-vm zun-agent nova-compute-2 zun-agent-2)

cmd_status() {
    local name pid state rc=0 line='%-18s %-8s %-9s %-6s %s\n'
    [ -e "$OWNED" ] || die "there is no cloud in $ALLINONE_DIR"
    # shellcheck disable=SC2059
    printf "$line" SERVICE PID STATE PORT LOG
    for name in "${BACKENDS[@]}" openvswitch "${SERVICES[@]}" nova-compute-fake "${VM_SERVICES[@]}" \
        "${SECOND_SERVICES[@]}"; do
        pid=-
        if running "$name"; then
            state=running
            read -r pid _ <"$RUN/$name.pid"
        elif found_running "$name"; then
            state='as found'
        elif only_on_request "$name"; then
            continue
        else
            state=stopped rc=1
        fi
        # shellcheck disable=SC2059
        printf "$line" "$name" "$pid" "$state" "${PORTS[$name]:--}" "$LOG/$name.log"
    done
    return $rc
}

only_on_request() {
    case $1 in
        *-fake | *-vm) [ ! -e "$RUN/$1.pid" ] ;;
        *-2) ! second_wanted ;;
        *) false ;;
    esac
}

# What belongs to the machine and was used as it is.
found_running() {
    case $1 in
        dockerd) docker_up ;;
        containerd) containerd_up ;;
        openvswitch) ovs-vsctl --timeout=5 show ;;
        *) false ;;
    esac >/dev/null 2>&1
}

# stop_all SECONDS NAME...: side by side.
stop_all() {
    local seconds=$1 name
    shift
    for name in "$@"; do stop "$name" "$seconds" & done
    wait
}

# Containers go on: their engine keeps them alive without it (live-restore), as virtual machines do
# without libvirt, and the switch is left running for them. All stop with destroy.
cmd_down() {
    [ -e "$OWNED" ] || die "there is no cloud in $ALLINONE_DIR"
    lock
    stop_services 5
    stop_engine
    say 'stopped; containers and virtual machines that ran still run, and Open vSwitch with them'
}

# stop_services SECONDS: all but the engine and the switch; those that others need come last.
stop_services() {
    stop_all "$1" "${COMPUTES[@]}"
    stop_all "$1" neutron-ovs-agent-2 "${VM_SERVICES[@]}" "${SERVICES[@]}" memcached registry
    stop_all 20 rabbitmq mariadb
    ERL_EPMD_ADDRESS=$IP epmd -port "$EPMD_PORT" -kill >/dev/null 2>&1 || true
}

stop_engine() {
    stop_all 20 dockerd dockerd-2
    stop_all 10 containerd containerd-2
}

cmd_destroy() {
    if [ ! -e "$OWNED" ]; then
        say "there is no cloud in $ALLINONE_DIR"
        return 0
    fi
    lock
    local began=$SECONDS
    mkdir -p "$LOG" "$RUN"
    stop_all 2 "${COMPUTES[@]}" libvirtd-vm
    ! second_wanted || { forget_second; forget_rules; } 2>>"$LOG/destroy.log"
    destroy_containers
    stop_services 2
    [ ! -e "$VM_DIR" ] || forget_vm 2>>"$LOG/destroy.log"
    destroy_networks
    destroy_engine
    destroy_cgroups
    destroy_mounts
    rm -f "$SUDOERS"
    rm -rf --one-file-system "$ALLINONE_DIR"
    say "destroyed in $((SECONDS - began)) s; installed software is kept in $ALLINONE_CACHE"
}

destroy_containers() {
    local ids
    # after `down` they still run, and only their engine can end them
    [ ! -e "$STATE/started.docker" ] || (run_stage docker) || true
    docker_up >/dev/null 2>&1 || return 0
    ids=$(docker ps -aq --filter "label=$SANDBOX_LABEL")
    # a paused one could hold up the others
    # shellcheck disable=SC2086
    [ -z "$ids" ] || { docker unpause $ids; docker rm -f -v $ids; } >>"$LOG/destroy.log" 2>&1
    # Names that the driver and the agent gave, of images from wherever: others keep theirs.
    docker images --format '{{.Repository}}:{{.Tag}}' |
        grep -E '^(zun-(sandbox|snapshot)-image:|zun\.invalid/)' |
        xargs -r docker rmi >>"$LOG/destroy.log" 2>&1
    # A name is left alone that the label does not show to be of this cloud's making.
    ids=$(docker images -q --filter "label=$OUR_LABEL" | sort -u)
    # shellcheck disable=SC2086
    [ -z "$ids" ] || docker rmi -f $ids >>"$LOG/destroy.log" 2>&1
}

# What Neutron's agents made for their networks: namespaces, and dnsmasq and haproxy in them,
# which have left the agents' sessions.
forget_namespaces() {
    local pid namespace
    for pid in $(pgrep -f "$STATE/neutron/"); do
        case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in
            dnsmasq\ * | haproxy\ * | */haproxy\ * | */dnsmasq\ *) kill -KILL "$pid" || true ;;
        esac
    done
    for namespace in $(ip netns list | awk '/^(qdhcp|qrouter|snat|fip)-/ {print $1}'); do
        ip netns del "$namespace"
    done
}

destroy_networks() {
    local bridge
    forget_namespaces
    ovs-vsctl --timeout=5 show >/dev/null 2>&1 || return 0
    # those of virtual machines, too: their directory may be gone since the switch did not answer
    for bridge in br-int br-tun br-ex br-vtep br-int-vm br-ex-vm; do
        ovs-vsctl --timeout=10 --if-exists del-br $bridge
    done
    [ ! -e "$STATE/set.manager" ] || ovs-vsctl --timeout=10 del-manager
    [ ! -e "$STATE/started.openvswitch" ] ||
        /usr/share/openvswitch/scripts/ovs-ctl stop >>"$LOG/destroy.log" 2>&1
}

# An engine that was started here leaves its bridge and its rules; its /var/lib/docker is kept.
destroy_engine() {
    local ours=0 policy
    [ ! -e "$STATE/started.docker" ] || ours=1
    policy=$(awk '{print $3}' "$STATE/forward.policy" 2>/dev/null)
    stop_engine
    [ $ours = 1 ] && ! docker_up >/dev/null 2>&1 || return 0
    ip link del docker0 2>/dev/null || true
    iptables-save 2>/dev/null | grep -v -i docker | sed "s/^:FORWARD DROP/:FORWARD ${policy:-ACCEPT}/" |
        iptables-restore
}

# Docker makes a parent cgroup in every hierarchy and removes none.
destroy_cgroups() {
    find /sys/fs/cgroup -depth -type d -path '*/zun*' -exec rmdir {} \; 2>>"$LOG/destroy.log" ||
        true
}

destroy_mounts() {
    local target
    awk -v below="$ALLINONE_DIR/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo |
        sort -r | while read -r target; do umount "$target" || umount -l "$target"; done
    # those of volumes go with their mounts; what is left was never mounted
    losetup --list --noheadings --output NAME,BACK-FILE |
        awk -v below="$ALLINONE_DIR/" 'index($2, below) == 1 {print $1}' |
        while read -r target; do losetup --detach "$target"; done
}

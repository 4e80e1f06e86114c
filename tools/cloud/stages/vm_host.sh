# A host of virtual machines beside the sandbox host on the same machine: Nova's libvirt driver with
# QEMU's own emulation, a libvirtd, and an Open vSwitch agent with bridges of its own.
# shellcheck shell=bash

VM_SERVICES=(libvirtd-vm neutron-ovs-agent-vm nova-compute-vm)
VM_PACKAGES=(libvirt-daemon libvirt-daemon-driver-qemu python3-libvirt qemu-system-x86)

stage_vm_packages() {
    install_packages "${VM_PACKAGES[@]}"
    # libvirt's default for QEMU, which it looks for whatever it is told; Debian makes it with a
    # package that is for systemd
    getent passwd libvirt-qemu >/dev/null || useradd --system --user-group --no-create-home \
        --home-dir /var/lib/libvirt --shell /usr/sbin/nologin libvirt-qemu
}

stage_vm_host() {
    config_vm
    start_service libvirtd-vm
    wire_vm
    start_service neutron-ovs-agent-vm
    answers libvirtd-vm
    start_service nova-compute-vm
    seed machines
    answers nova-compute-vm
    wait_for 60 nova-compute-vm compute_enabled "$VM_HOST"
}

config_vm() {
    local COMPUTE_DRIVER=libvirt.LibvirtDriver
    mkdir -p "$VM_DIR"/{etc,lib,log,run,python} "$ALLINONE_CACHE/libvirt"
    render libvirtd.conf | put "$VM_DIR/etc/libvirtd.conf"
    render qemu.conf | put "$VM_DIR/etc/qemu.conf"
    render openvswitch_agent-vm.ini | put "$ETC/neutron/openvswitch_agent-vm.ini"
    config_compute "$VM_HOST" nova-compute-vm.conf
    install -d -o nova -g nova "$VM_STATE/instances"
    # the environment does not see Debian's modules, and shall see this one only
    ln -sf /usr/lib/python3/dist-packages/libvirt{,_qemu,_lxc,aio}.py \
        /usr/lib/python3/dist-packages/libvirtmod*.so "$VM_DIR/python"
    # beside the contexts of os-vif and os-brick the libvirt driver uses Nova's own
    sudoers_of "$VM_HOST" |
        sed '/vif_plug_ovs\\.privsep/{p;s/vif_plug_ovs\\.privsep\\.vif_plug/nova\\.privsep\\.sys_admin_pctxt/}' |
        put_sudoers "$VM_SUDOERS"
}

# The physical network of both hosts' switches: what one agent sends to its bridge the other gets.
wire_vm() {
    ovs-vsctl --timeout=10 \
        --may-exist add-br br-ex-vm -- set bridge br-ex-vm datapath_type=netdev \
        -- --may-exist add-port br-ex to-br-ex-vm \
        -- set interface to-br-ex-vm type=patch options:peer=to-br-ex \
        -- --may-exist add-port br-ex-vm to-br-ex \
        -- set interface to-br-ex type=patch options:peer=to-br-ex-vm
}

# start_vm NAME: one of its services.
start_vm() {
    case $1 in
        libvirtd-vm) start "$1" "$(stamp_of "$VM_DIR"/etc/{libvirtd,qemu}.conf "$CLOUD/hold-libvirtd")" \
            "$CLOUD/hold-libvirtd" "$VM_HOST" "$VM_DIR" "$ALLINONE_CACHE/libvirt" ;;
        neutron-ovs-agent-vm)
            start_neutron_agent "$1" neutron-openvswitch-agent openvswitch_agent-vm ;;
        nova-compute-vm) start_compute "$1" "$VM_HOST" PYTHONPATH="$VM_DIR/python" ;;
    esac
}

libvirt_up() {
    PYTHONPATH=$VM_DIR/python "$VENV/bin/python" -c 'import libvirt, sys
libvirt.open(sys.argv[1])' "qemu+unix:///system?socket=$VM_DIR/run/libvirt-sock"
}

# Its records go too.
stage_no_vm_host() {
    no_servers_on "$VM_HOST"
    stop nova-compute-vm 2
    # the agent would take longer, and there is no port left
    stop_all 2 neutron-ovs-agent-vm libvirtd-vm
    seed no-vm-host
    forget_vm
    rm -rf --one-file-system "$VM_DIR" "$VM_STATE"
}

# What is on the machine beyond those directories: what still runs there, ports, bridges and rules.
forget_vm() {
    local file pid port link
    for file in "$VM_DIR"/run/qemu/*.pid; do
        # the file may be older than the machine's last start, and another have the number now
        pid=$(cat "$file" 2>/dev/null) || continue
        [[ $(readlink "/proc/$pid/exe") = *qemu* ]] || continue
        ! grep -qaF "$VM_STATE/instances/" "/proc/$pid/cmdline" || kill -KILL "$pid" || true
    done
    # a port is one end of a pair of links; the other is on a bridge of the same name
    for port in $(ovs-vsctl --timeout=10 list-ports br-int-vm | sed -n 's/^qvo//p'); do
        for link in "qvb$port" "qbr$port"; do
            [ ! -e "/sys/class/net/$link" ] || ip link del "$link" || true
        done
    done
    ovs-vsctl --timeout=10 --if-exists del-port br-ex to-br-ex-vm -- --if-exists del-br br-ex-vm \
        -- --if-exists del-br br-int-vm || true
    forget_firewall
    rm -f "$VM_SUDOERS"
    rmdir /run/libvirt 2>/dev/null || true
}

# The chains of the machines' agent, and what leads into them from the kernel's; the sandboxes' agent
# has none. Rule by rule, and not by a restored copy, since the engine changes its own meanwhile.
forget_firewall() {
    local tables table rule chain chains set ours='neutron-(openvswi-.*|filter-top)$'
    for tables in 'iptables -w 10' 'ip6tables -w 10'; do
        for table in raw mangle nat filter; do
            $tables -t $table -S | grep -E "^-A [A-Z]+ -j $ours" | while read -r rule; do
                # shellcheck disable=SC2086
                $tables -t $table -D ${rule#-A }
            done || true # grep found none
            chains=$($tables -t $table -S | sed -nE "s/^-N ($ours)/\1/p") || continue
            for chain in $chains; do $tables -t $table -F "$chain" || true; done
            for chain in $chains; do $tables -t $table -X "$chain" || true; done
        done
    done
    # the kernel keeps what a rule of somebody else names
    for set in $(ipset list -name | grep ^NIPv); do ipset destroy "$set" || true; done
}

# Writes every configuration file; a service whose file changed is restarted when its turn comes.
# shellcheck shell=bash

stage_config() {
    local name
    for name in keystone placement; do
        render $name.conf | put "$ETC/$name/$name.conf"
    done
    render glance-api.conf | put "$ETC/glance/glance-api.conf"
    render nova.conf | put "$ETC/nova/nova.conf"
    render nova-policy.yaml | put "$ETC/nova/policy.yaml"
    for name in neutron.conf ml2_conf.ini l3_agent.ini dhcp_agent.ini metadata_agent.ini; do
        render $name | put "$ETC/neutron/$name"
    done
    BRIDGE_MAPPINGS=public:br-ex TUNNEL_IP=$TUNNEL_HERE render openvswitch_agent.ini |
        put "$ETC/neutron/openvswitch_agent.ini"
    render zun-agent.conf | put "$ETC/zun/zun-agent.conf" 640 zun
    config_cinder
    config_compute "$HOST"
    cp -n "$VENV"/etc/glance/*.ini "$ETC/glance/"
    cp -n "$VENV/etc/nova/api-paste.ini" "$ETC/nova/"
    cp -n "$VENV/etc/neutron/api-paste.ini" "$ETC/neutron/"
    render clouds.yaml | put "$ALLINONE_DIR/clouds.yaml" 644
    render zun-wrapper | put "$BIN/zun" 755
}

# config_compute HOST [TEMPLATE...]: the directories and the file of one nova-compute, whose address
# is $COMPUTE_IP. More templates follow the usual one in the file.
config_compute() {
    local COMPUTE_HOST=$1 COMPUTE_STATE=$STATE/nova-compute-$1
    local COMPUTE_CONF=$ETC/nova-compute-$1/nova.conf
    mkdir -p "$ETC/nova-compute-$1"
    install -d -o nova -g nova -m 750 "$COMPUTE_STATE" "$COMPUTE_STATE/lock"
    local template
    for template in nova-compute.conf "${@:2}"; do render "$template"; done |
        put "$COMPUTE_CONF" 640 nova
    # Nova's own fake drivers do not write their node's identity, and refuse a second start
    # without it; a name-based one is what they would compute.
    if [[ $COMPUTE_DRIVER = fake.* && ! -e $COMPUTE_STATE/compute_id ]]; then
        "$PYTHON" -c 'import sys, uuid
print(uuid.uuid5(uuid.NAMESPACE_DNS, sys.argv[1]), end="")' "$1" >"$COMPUTE_STATE/compute_id"
        chown nova:nova "$COMPUTE_STATE/compute_id"
    fi
}

# Cinder where the kernel has no device-mapper, NBD, iSCSI or NFS client: its NFS driver on a
# share that is mounted already, by a bind mount under the name that it looks for. Volumes are
# sparse raw files. A stub satisfies its check for mount.nfs.
config_cinder() {
    local share=$IP:$STATE/cinder/share mount
    mount=$STATE/cinder/mnt/$(printf %s "$share" | md5sum | cut -d' ' -f1)
    mkdir -p "$mount"
    mountpoint -q "$mount" || mount --bind "$STATE/cinder/share" "$mount"
    printf '#!/bin/sh\nexit 0\n' | put "$BIN/mount.nfs" 755
    echo "$share" | put "$ETC/cinder/shares"
    cp -rn "$VENV"/etc/cinder/* "$ETC/cinder/"
    put "$ETC/cinder/files_driver.py" <"$CLOUD/config/files_driver.py"
    render cinder.conf | put "$ETC/cinder/cinder.conf"
}

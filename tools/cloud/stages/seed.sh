# Fills the cloud through its APIs.
# shellcheck shell=bash

# seed PART: with the settings that seed.py reads, under names of their own.
seed() {
    local name
    for name in IP PASSWORD REGION HOST VM_HOST FAKE_HOST SECOND_HOST PLACEMENT_PORT GLANCE_PORT NEUTRON_PORT \
        NOVA_PORT CINDER_PORT AGENT_PORT PUBLIC_CIDR PUBLIC_GATEWAY PRIVATE_CIDR PAUSE_ARCHIVE GUEST; do
        export "CLOUD_$name=${!name}"
    done
    "$VENV/bin/python" "$CLOUD/seed.py" "$1"
}

# Users and catalogue, once per version of what they are.
stage_identity() {
    local want
    want=$(stamp_of "$CLOUD/seed.py" "$ALLINONE_DIR/clouds.yaml")
    [ "$(cat "$STATE/done/identity" 2>/dev/null)" != "$want" ] || return 0
    seed identity
    echo "$want" >"$STATE/done/identity"
}

stage_cloud() { seed cloud; }

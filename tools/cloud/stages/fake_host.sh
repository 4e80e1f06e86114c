# A compute host of Nova's own fake driver, which makes nothing: to compare the speed of others with.
# shellcheck shell=bash

stage_fake_host() {
    COMPUTE_DRIVER=fake.PredictableNodeUUIDDriver config_compute "$FAKE_HOST"
    pretend_network_agent "$FAKE_HOST"
    start_service nova-compute-fake
    answers nova-compute-fake
    wait_for 60 nova-compute-fake compute_enabled "$FAKE_HOST"
}

stage_no_fake_host() {
    no_servers_on "$FAKE_HOST"
    stop nova-compute-fake 2
    seed no-fake-host
    rm -rf --one-file-system "$STATE/nova-compute-$FAKE_HOST"
}

# no_servers_on HOST: Nova would never delete them without a nova-compute.
no_servers_on() {
    local servers
    servers=$(sql "select count(*) from nova.instances where host = '$1' and deleted = 0")
    [ "$servers" = 0 ] || die "$servers servers are on $1"
}

# Neutron binds a port only where it knows a network agent to be alive. A second Open vSwitch agent
# would be a whole process for nothing; the first one's record under the other host's name, with
# a sign of life that does not grow old, is enough for ports that no switch carries. It names no end
# of a tunnel: with the record Neutron would forget the first one's, and a second host not find it.
pretend_network_agent() {
    sql "insert into neutron.agents (id, agent_type, \`binary\`, topic, host, admin_state_up,
            created_at, started_at, heartbeat_timestamp, description, configurations, resource_versions,
            availability_zone, \`load\`, resources_synced)
        select uuid(), agent_type, \`binary\`, topic, '$1', admin_state_up, created_at, started_at,
            '2099-01-01', description, json_remove(configurations, '\$.tunneling_ip'),
            resource_versions, availability_zone, \`load\`, resources_synced
        from neutron.agents as known where host = '$HOST' and agent_type = 'Open vSwitch agent'
            and not exists (select 1 from neutron.agents as there where there.host = '$1')"
}

# compute_enabled HOST: its nova-compute has reported and its host is known to the scheduler.
compute_enabled() {
    local count
    count=$(sql "select count(*) from nova_api.host_mappings where host = '$1'")
    [ "$count" = 1 ] && [ "$(sql "select count(*) from nova.services where host = '$1'
        and \`binary\` = 'nova-compute' and deleted = 0
        and last_seen_up > utc_timestamp() - interval 60 second")" = 1 ]
}

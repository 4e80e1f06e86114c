# Settings of the cloud. Each can be given in the environment.
# shellcheck shell=bash disable=SC2034  # read by the files that source this one
ALLINONE_DIR=${ALLINONE_DIR:-/opt/zun-allinone}            # all state: configuration, logs, data
ALLINONE_CACHE=${ALLINONE_CACHE:-/var/cache/zun-allinone}  # installed software, kept by destroy
PYTHON=${PYTHON:-/usr/bin/python3.11}  # Debian's: users that are not root must be able to run it

HOST=${ALLINONE_HOST:-$(hostname)}     # the first sandbox host, as Nova and Neutron call it
VM_HOST=$HOST-vm                       # the host of virtual machines of `vm-host up`
FAKE_HOST=$HOST-fake                   # the host of Nova's fake driver of `fake-host up`
SECOND_HOST=$HOST-2                    # the other sandbox host of `up --hosts 2`
COMPUTE_DRIVER=${COMPUTE_DRIVER:-zun_virt.ZunDriver}
PASSWORD=${ALLINONE_PASSWORD:-allinone} # of every account; everything listens on loopback only
REGION=${REGION:-RegionOne}
DEBUG=${ALLINONE_DEBUG:-false}
API_WORKERS=${ALLINONE_API_WORKERS:-2}

IP=127.0.0.1
LINK_HERE=${LINK_HERE:-172.24.5.1}     # this machine, for the second host, on a /30 of their own
LINK_THERE=${LINK_THERE:-172.24.5.2}
TUNNEL_HERE=${TUNNEL_HERE:-172.24.6.1} # ends of the tunnels between the hosts' switches, on a /30
TUNNEL_THERE=${TUNNEL_THERE:-172.24.6.2}
KEYSTONE_PORT=${KEYSTONE_PORT:-15000}
PLACEMENT_PORT=${PLACEMENT_PORT:-18778}
GLANCE_PORT=${GLANCE_PORT:-19292}
NEUTRON_PORT=${NEUTRON_PORT:-19696}
NOVA_PORT=${NOVA_PORT:-18774}
METADATA_PORT=${METADATA_PORT:-18775}
CINDER_PORT=${CINDER_PORT:-18776}
AGENT_PORT=${AGENT_PORT:-9517}
DB_PORT=${DB_PORT:-13306}
MQ_PORT=${MQ_PORT:-15672}
MQ_DIST_PORT=${MQ_DIST_PORT:-14370}
EPMD_PORT=${EPMD_PORT:-14369}
MEMCACHE_PORT=${MEMCACHE_PORT:-11311}
OF_PORT=${OF_PORT:-16633}              # where the OVS agent listens for the switch
VM_OF_PORT=${VM_OF_PORT:-16634}        # and that of the virtual machines
OVSDB_PORT=${OVSDB_PORT:-6640}         # where the switch's database listens for os-vif
REGISTRY_PORT=${REGISTRY_PORT:-5002}

PUBLIC_CIDR=${PUBLIC_CIDR:-172.24.4.0/24}
PUBLIC_GATEWAY=${PUBLIC_GATEWAY:-172.24.4.1}   # this machine, on br-ex
PRIVATE_CIDR=${PRIVATE_CIDR:-10.20.0.0/24}
SECOND_SUITE=${ALLINONE_SECOND_SUITE-trixie} # of Debian, whose Docker the second host runs; empty: ours
HUB_TIMEOUT=${HUB_TIMEOUT:-3}          # seconds to find out whether Docker Hub can be reached

ETC=$ALLINONE_DIR/etc
LOG=$ALLINONE_DIR/log
RUN=$ALLINONE_DIR/run
STATE=$ALLINONE_DIR/state
BIN=$ALLINONE_DIR/bin
SANDBOX_STATE=$ALLINONE_DIR/zun        # [zun_virt] state_path
DOCKER_URL=unix:///var/run/docker.sock
COMPUTE_IP=$IP                         # of the host that is configured
SECOND_DIR=$ALLINONE_DIR/second        # the second host's engine, switch and sandboxes
SECOND_STATE=$SECOND_DIR/zun           # its [zun_virt] state_path
SECOND_DOCKER=unix://$SECOND_DIR/run/docker.sock
SECOND_ENGINE=$ALLINONE_CACHE/engine-$SECOND_SUITE
ON_SECOND=$BIN/on-second-host          # runs a command there
VM_DIR=$ALLINONE_DIR/vm                # what libvirt keeps of virtual machines
VM_STATE=$STATE/nova-compute-$VM_HOST  # what Nova keeps of them
OWNED=$ALLINONE_DIR/.zun-allinone      # says that destroy may remove the directory
VENV=$ALLINONE_CACHE/venv
UV=$ALLINONE_CACHE/uvtool/bin/uv
OVSDB_SOCKET=unix:/var/run/openvswitch/db.sock
KEYSTONE_URL=http://$IP:$KEYSTONE_PORT/v3
REGISTRY=$IP:$REGISTRY_PORT
SUDOERS=/etc/sudoers.d/zun-virt-allinone
VM_SUDOERS=$SUDOERS-vm
OUR_LABEL=org.openstack.zun.allinone   # on images built here

unset PYTHONDONTWRITEBYTECODE PYTHONPATH # without .pyc files every start compiles 2000 modules
export PATH=$BIN:$VENV/bin:$PATH:/usr/sbin:/sbin
export OS_CLIENT_CONFIG_FILE=$ALLINONE_DIR/clouds.yaml
export LC_ALL=C.UTF-8 UV_CACHE_DIR=$ALLINONE_CACHE/uv
# A caller's credentials must not meet those of this cloud, nor another engine its containers.
unset DOCKER_HOST "${!OS_AUTH@}" OS_USERNAME OS_PASSWORD OS_PROJECT_NAME OS_TOKEN

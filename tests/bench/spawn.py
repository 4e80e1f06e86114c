"""(a) What the driver itself takes to make a sandbox with one port, against bare Docker.

The driver runs in this process, as root, with the real engine, the real switch and real
privileged processes.  Nova and Neutron are left out: the port is made up, and nobody waits
for the event that it works.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import tempfile
import typing
import uuid
from collections.abc import Iterator

import nova.conf
import nova.objects
from nova.network import model
from oslo_privsep import priv_context
from vif_plug_ovs import privsep as ovs_privsep

from tests.bench.measure import Row, alternate, median
from tests.cloud import settings
from zun_virt import driver, image, privsep

if typing.TYPE_CHECKING:
    from tests.bench.lab import Lab

CONF = nova.conf.CONF
BRIDGE = 'br-zunbench'
PAUSE = 'kubernetes/pause:latest'
HOST = 'zun-bench'
TARGET = 1.0


def run(rows: list[Row], lab: Lab, *, n: int = 20) -> None:
    """(a) One after another."""
    with contextlib.ExitStack() as stack:
        made_driver, meta, image_id = prepare(stack, lab.engine.api)
        steps = Spawns(made_driver, meta)
        stack.callback(steps.destroy)

        def bare() -> None:
            lab.engine.pause(image_id)

        stack.callback(lab.engine.remove)
        ours, bare_ones = alternate(n, steps.spawn, bare, warm_up=2)
    rows.append(
        Row(
            key='a',
            what='spawn with one port; create+start, network none',
            unit='ms',
            ours=median(ours),
            raw=median(bare_ones),
            target=f'<= {TARGET} x',
            met=median(ours) <= TARGET * median(bare_ones),
            n=n,
        )
    )


class Spawns:
    """Sandboxes that the driver was asked for."""

    def __init__(self, made_driver: driver.ZunDriver, meta: typing.Any) -> None:
        self._driver = made_driver
        self._meta = meta
        self._made: list[tuple[typing.Any, model.NetworkInfo]] = []

    @property
    def instances(self) -> list[typing.Any]:
        """Those that are there, as nova describes them."""
        return [instance for instance, _ in self._made]

    def spawn(self) -> None:
        """Make one."""
        number = len(self._made) + 1
        instance, port = make_instance(number), make_port(number)
        self._made.append((instance, port))
        self._driver.spawn(None, instance, self._meta, [], None, {}, network_info=port)

    def destroy(self) -> None:
        """Remove them all."""
        while self._made:
            instance, port = self._made.pop()
            self._driver.destroy(None, instance, port)


class _NoNeutron:
    """Nova's `virtapi`, for a cloud in which every event has come already."""

    @contextlib.contextmanager
    def wait_for_instance_event(self, *args: typing.Any, **kwargs: typing.Any) -> Iterator[None]:
        yield


def _unmount(point: pathlib.Path) -> None:
    """Take away what the driver mounts when it starts, and leaves for the next start."""
    if subprocess.run(['mountpoint', '--quiet', point], timeout=10).returncode == 0:
        subprocess.run(['umount', point], check=True, timeout=10)


def prepare(
    stack: contextlib.ExitStack, engine: typing.Any, *, helpers: bool = False, passes: bool = True
) -> tuple[driver.ZunDriver, typing.Any, str]:
    """Return a driver that is ready, nova's description of an image, and Docker's id of it.

    :param engine: docker.APIClient
    :param helpers: whether privileged processes are programs of their own, as nova-compute's
        are, and no copies of this one
    :param passes: whether the driver looks at its sandboxes unasked
    """
    nova.objects.register_all()
    CONF([], project='nova', default_config_files=[])
    state = stack.enter_context(tempfile.TemporaryDirectory(prefix='zun-bench-'))
    CONF.set_override('state_path', state, group='zun_virt')
    stack.callback(_unmount, pathlib.Path(state, 'volumes'))
    # There is no nova that could be asked for ports.
    CONF.set_override('port_sync_interval', 0, group='zun_virt')
    if not passes:
        CONF.set_override('recovery_interval', 0, group='zun_virt')
    for context in (privsep.network, privsep.mounts, ovs_privsep.vif_plug):
        if helpers:
            program = f'{settings.load()["VENV"]}/bin/privsep-helper --config-file {_file(state)}'
            CONF.set_override('helper_command', program, group=context.cfg_section)
        method = priv_context.Method.ROOTWRAP if helpers else priv_context.Method.FORK
        context.start(method)
        stack.callback(context.stop)
    _make_bridge(stack)
    made = driver.ZunDriver(_NoNeutron())
    made.init_host(HOST)
    stack.callback(made.cleanup_host, HOST)
    meta, image_id = _image(stack, engine)
    return made, meta, image_id


def _file(state: str) -> pathlib.Path:
    """Write the configuration of programs that do not know what is set in this process."""
    file = pathlib.Path(state, 'nova.conf')
    file.write_text(f'[zun_virt]\nstate_path = {state}\n')
    return file


def _make_bridge(stack: contextlib.ExitStack) -> None:
    """Make a bridge of the kind of Neutron's own, in which no agent of Neutron looks."""
    _switch('--may-exist', 'add-br', BRIDGE)
    stack.callback(_switch, '--if-exists', 'del-br', BRIDGE)
    _switch('set', 'bridge', BRIDGE, f'datapath_type={_datapath()}')


def _datapath() -> str:
    return _switch('get', 'bridge', 'br-int', 'datapath_type').strip().strip('"')


def _switch(*words: str) -> str:
    command = ['ovs-vsctl', '--timeout=10', *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _image(stack: contextlib.ExitStack, engine: typing.Any) -> tuple[typing.Any, str]:
    """Bring the image of sandboxes into Docker, under the name by which the driver looks."""
    meta = nova.objects.ImageMeta.from_dict(
        {
            'id': str(uuid.uuid4()),
            'checksum': '0' * 32,
            'container_format': 'docker',
            'disk_format': 'raw',
            'properties': {'img_hv_type': 'docker'},
        }
    )
    present = {tag for found in engine.images() for tag in found['RepoTags'] or ()}
    if PAUSE not in present:
        archive = pathlib.Path(settings.load()['STATE'], 'images', 'pause.tar')
        engine.load_image(archive.read_bytes())
        stack.callback(engine.remove_image, PAUSE)
    repository, _, tag = image.image_tag(meta).rpartition(':')
    engine.tag(PAUSE, repository, tag)
    stack.callback(engine.remove_image, f'{repository}:{tag}')
    return meta, str(engine.inspect_image(PAUSE)['Id'])


def make_instance(number: int) -> typing.Any:
    """Return a server as nova describes it to the driver that shall make it."""
    return nova.objects.Instance(
        id=number,
        uuid=str(uuid.uuid4()),
        project_id='bench',
        user_id='bench',
        display_name=f'bench-{number}',
        hostname=f'bench-{number}',
        host=HOST,
        vm_state='building',
        task_state='spawning',
        metadata={},
        system_metadata={},
        config_drive='',
        launched_at=None,
        image_ref='',
        trusted_certs=None,
        numa_topology=None,
        migration_context=None,
        flavor=nova.objects.Flavor(
            name='bench', vcpus=1, memory_mb=128, root_gb=1, ephemeral_gb=0, swap=0, extra_specs={}
        ),
    )


def make_port(number: int, **details: typing.Any) -> model.NetworkInfo:
    """Return one port as nova describes it, with an address of its own.

    :param details: what else the port's binding says
    """
    address = f'10.99.{number // 200}.{number % 200 + 10}'
    subnet = model.Subnet(
        cidr='10.99.0.0/16',
        gateway=model.IP(address='10.99.0.1', type='gateway'),
        dns=[model.IP(address='10.99.0.2', type='dns')],
        ips=[model.FixedIP(address=address)],
        routes=[],
        version=4,
    )
    network = model.Network(
        id=str(uuid.UUID(int=1)), bridge=BRIDGE, label='bench', subnets=[subnet], mtu=1450
    )
    port_id = str(uuid.uuid4())
    return model.NetworkInfo(
        [
            model.VIF(
                id=port_id,
                address=f'fa:16:3e:99:{number // 256:02x}:{number % 256:02x}',
                network=network,
                type=model.VIF_TYPE_OVS,
                details={'port_filter': True, 'datapath_type': _datapath(), **details},
                devname=f'tap{port_id}'[: model.NIC_NAME_LEN],
                ovs_interfaceid=port_id,
                vnic_type=model.VNIC_TYPE_NORMAL,
                active=False,
                delegate_create=True,
            )
        ]
    )

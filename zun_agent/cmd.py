"""``zun-agent``: one process that serves the API and keeps this host's containers."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import logging as python_logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent import futures

from cheroot import wsgi
from oslo_config import cfg
from oslo_log import log as logging

from zun_agent import conf as options
from zun_agent import errors, locks
from zun_agent.manager import Manager
from zun_agent.openstack import OpenStack
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_virt.sandbox import SandboxStore

LOG = logging.getLogger(__name__)

GRACE = 5
"""Seconds that requests in flight are given when the agent is told to stop."""

PATIENCE = GRACE + 2.0
"""Seconds that the agent before this one is given to end."""

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
"""Of glibc's malloc.h."""

OWN_PAGES = 256 << 10
"""Bytes from which on a block of memory has pages of its own, and gives them back when freed."""

UNWANTED = ('eventlet', 'greenlet', 'paramiko')
"""Modules that libraries import where they are installed, and do without where not.

eventlet comes with oslo.cache's pool of connections to memcached: a thread in which it was
imported never ends in the eyes of `Thread.join`. greenlet is for oslo.middleware's reports of
threads that are not used here, and costs 1 MiB of memory; SQLAlchemy needs it for asyncio alone.
paramiko is docker's, for ssh:// URLs, and costs 8 MiB.
"""

SWITCH_INTERVAL = 0.001
"""Seconds after which a thread lets others run: each answer of Docker's or of the store has
a thread that waits for its turn, five times as long by default."""

STORE_RETRY = 3.0
"""Seconds between two attempts to reach the store at start."""


class Agent:
    """The parts of one agent, put together."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Make the parts; nothing is connected to, written or started yet."""
        # Imported here so that a front end that only serves the API need not load them.
        from zun_agent import images
        from zun_agent.reconciler import Reconciler
        from zun_agent.runtime import Runtime

        self.conf = conf
        self.sandbox_store = SandboxStore(conf.state_path)
        self.store = Store(options.connection(conf))
        self.runtime = Runtime(conf.docker.url, conf.docker.timeout, conf.docker.pull_timeout)
        cloud = OpenStack(conf)
        self.sandboxes = Sandboxes(conf, self.sandbox_store, cloud)
        drivers = images.load(conf, self.runtime, cloud)
        self.reconciler = Reconciler(
            conf, self.store, self.runtime, self.sandboxes, drivers, self.sandbox_store
        )
        self.manager = Manager(
            conf,
            self.store,
            self.runtime,
            self.sandboxes,
            drivers,
            self.reconciler.accept,
            host=conf.host,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent until it is told to stop; return its exit status."""
    _keep_out(*UNWANTED)
    _limit_memory()
    sys.setswitchinterval(SWITCH_INTERVAL)
    conf = configure(sys.argv[1:] if arguments is None else arguments)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    SandboxStore(conf.state_path).prepare()
    if not open_store(options.connection(conf), told):
        return 0
    if not locks.alone(conf.state_path, PATIENCE):
        LOG.critical('another zun-agent works with %s: a host has one', conf.state_path)
        return 1
    agent = Agent(conf)
    try:
        server = listen(agent)
    except OSError as error:
        LOG.critical('cannot listen on %s port %d: %s', conf.api.bind_host, conf.api.port, error)
        return 1
    serving = threading.Thread(target=_serve, args=(server, told), name='api', daemon=True)
    agent.reconciler.start()
    serving.start()
    LOG.info(
        'zun-agent %s on host %s listens at %s',
        version(),
        conf.host,
        f'http://{conf.api.bind_host}:{conf.api.port}',
    )
    told.wait()
    stop(agent, server)
    return 0


def _keep_out(*names: str) -> None:
    """Let imports of these modules fail from now on."""
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _limit_memory() -> None:
    """Let threads share one heap, without big blocks: they would keep what a busy minute needed."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)
        # glibc would raise it with every big block that is freed.
        libc.mallopt(M_MMAP_THRESHOLD, OWN_PAGES)


def configure(arguments: Sequence[str]) -> cfg.ConfigOpts:
    """Read the command line and the configuration files, and set up the log."""
    conf = cfg.ConfigOpts()
    logging.register_options(conf)
    # A library that says much at the level that is meant for operators.
    logging.set_defaults(
        default_log_levels=[
            *logging.get_default_log_levels(),
            'docker=WARN',
            'alembic=WARN',
            'watchdog=WARN',
        ]
    )
    options.register(conf)
    conf(list(arguments), project='zun', prog='zun-agent', version=version())
    logging.setup(conf, 'zun-agent', version())
    return conf


def version() -> str:
    """Return the version of the distribution, as far as it is installed."""
    try:
        return importlib.metadata.version('zun-virt')
    except importlib.metadata.PackageNotFoundError:
        return 'of a source tree'


def open_store(url: str, told: threading.Event) -> bool:
    """Bring the store's schema up to date, as soon as the database is there.

    :param url: of the store, for SQLAlchemy
    :param told: is set when the agent is told to stop, which ends the wait
    :returns: whether it is open
    """
    while not told.is_set():
        try:
            # In a process of its own: the tools for that are big, and needed once.
            with futures.ProcessPoolExecutor(1, multiprocessing.get_context('fork')) as apart:
                apart.submit(_migrate, url).result()
        except errors.ServiceUnavailable as error:
            LOG.warning('%s Tried again in %g s.', error, STORE_RETRY)
            told.wait(STORE_RETRY)
        else:
            return True
    return False


def _migrate(url: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    store = Store(url)
    try:
        store.migrate()
    finally:
        store.close()


def listen(agent: Agent) -> wsgi.Server:
    """Return the server, which listens already.

    :raises OSError: the address or port cannot be had
    """
    from zun_agent.api import app

    conf = agent.conf
    server = _Server(
        (conf.api.bind_host, conf.api.port),
        app.build(conf, agent.manager),
        numthreads=conf.api.threads,
        server_name=conf.host,
        request_queue_size=128,
        shutdown_timeout=GRACE,
    )
    server.software = 'zun-agent'
    server.prepare()
    return server


def stop(agent: Agent, server: wsgi.Server) -> None:
    """Let requests in flight and steps of the reconciler end.

    What they do not get done in this time is done after the next start.
    """
    LOG.info('zun-agent stops: requests in flight have %g s', GRACE)
    serving = list(server.requests._threads)
    # It joins its threads without a time-out in the end: not to be waited for.
    threading.Thread(target=server.stop, name='api-stop', daemon=True).start()
    agent.reconciler.stop()
    deadline = time.monotonic() + GRACE
    while busy := [thread for thread in serving if thread.is_alive()]:
        if time.monotonic() > deadline:
            LOG.warning('zun-agent stops with %d requests in flight', len(busy))
            break
        time.sleep(0.05)
    agent.store.close()
    LOG.info('zun-agent has stopped')


def run() -> None:
    """Run the agent, and end the process whatever its threads are doing."""
    status = main()
    python_logging.shutdown()
    sys.stderr.flush()
    os._exit(status)  # the interpreter would wait for threads, as long as users' commands run


class _Server(wsgi.Server):
    """Cheroot's server, with its complaints in our log."""

    def error_log(self, msg: str = '', level: int = 20, traceback: bool = False) -> None:
        """Log a complaint, which the server would write to its standard error."""
        LOG.log(max(level, python_logging.INFO), 'api: %s', msg, exc_info=traceback)


def _serve(server: wsgi.Server, told: threading.Event) -> None:
    """Serve until stopped; an agent that cannot serve any more is of no use."""
    try:
        server.serve()
    finally:
        told.set()


if __name__ == '__main__':
    run()

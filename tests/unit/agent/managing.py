"""What stands beside the manager in its tests, and requests as the API hands them on to it."""

from zun_agent import errors
from zun_agent.models import Status


class Images:
    """Image drivers that know what they are asked for."""

    def __init__(self):
        self.missing = set()

    def resolve(self, context, driver, name):
        if name in self.missing:
            raise errors.ImageNotFound(f'Image {name} could not be found.')
        return f'id-of-{name}' if driver == 'glance' else None


class Runtime:
    """Docker, as far as the API reads it."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.asked.append((name, args, kwargs))
            return {'logs': 'text', 'execute': ('out', 3)}.get(name, {'name': name})

        return call


def spec(**values):
    """Return a request as the API hands it on."""
    given = dict.fromkeys(
        ('command', 'entrypoint', 'cpu', 'memory', 'disk', 'workdir', 'hostname', 'restart_policy',
         'image_driver', 'image_pull_policy', 'availability_zone', 'host')
    )  # fmt: skip
    given |= dict.fromkeys(('interactive', 'tty', 'auto_remove', 'auto_heal'), False)
    given |= {'environment': {}, 'labels': {}, 'hints': {}, 'security_groups': [], 'nets': []}
    return {**given, 'image': 'nginx', 'name': 'web', 'cpu_policy': 'shared', **values}


def create(agent, context=None, *, run=True, **values):
    return agent.manager.create(context or agent.context, spec(**values), run=run)


def running(agent, **values):
    """Create a container, and let the reconciler have started it."""
    made = create(agent, **values)
    return agent.store.observe(
        made.uuid, status=Status.RUNNING, docker_id='d' * 64, done_generation=1
    )

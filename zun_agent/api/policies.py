"""Policy: the rules of Zun under Zun's names, and the one place that asks them."""

from __future__ import annotations

import typing
from time import monotonic

from oslo_policy import policy

from zun_agent import errors

if typing.TYPE_CHECKING:
    from collections.abc import Hashable

    from oslo_config import cfg

    from zun_agent.api.context import Context

ADMIN = 'rule:context_is_admin'
ADMIN_OR_OWNER = 'is_admin:True or project_id:%(project_id)s'
NOBODY = 'rule:deny_everybody'

_BASE = (
    ('context_is_admin', 'role:admin', 'Who is an administrator of this service.'),
    ('admin_or_owner', ADMIN_OR_OWNER, 'Administrators, and the project that owns the object.'),
    ('admin_api', ADMIN, 'Administrators.'),
    ('deny_everybody', '!', 'Nobody.'),
)

_LIST = 'GET /v1/containers'
_CREATE = 'POST /v1/containers'
_ONE = '/v1/containers/{container_ident}'

_RULES = (
    ('container:create', ADMIN_OR_OWNER, 'Create a container.', _CREATE),
    ('container:create:runtime', ADMIN, 'Choose the OCI runtime.', _CREATE),
    ('container:create:privileged', NOBODY, 'Create a privileged container.', _CREATE),
    (
        'container:create:image_pull_policy',
        ADMIN,
        'Choose an image pull policy, where the default is another than ifnotpresent.',
        _CREATE,
    ),
    ('container:create:requested_destination', ADMIN, 'Choose the host.', _CREATE),
    ('container:delete', ADMIN_OR_OWNER, 'Delete a container.', f'DELETE {_ONE}'),
    ('container:delete_all_projects', ADMIN, "Delete any project's container.", f'DELETE {_ONE}'),
    ('container:delete_force', ADMIN, 'Delete a container whatever it does.', f'DELETE {_ONE}'),
    ('container:get_one', ADMIN_OR_OWNER, 'Show a container.', f'GET {_ONE}'),
    ('container:get_one:host', ADMIN, 'See the host of a container.', f'GET {_ONE}'),
    (
        'container:get_one:image_pull_policy',
        ADMIN,
        'See the image pull policy of a container.',
        f'GET {_ONE}',
    ),
    ('container:get_one:privileged', ADMIN, 'See if a container is privileged.', f'GET {_ONE}'),
    ('container:get_one:runtime', ADMIN, 'See the OCI runtime of a container.', f'GET {_ONE}'),
    ('container:get_one_all_projects', ADMIN, "Show any project's container.", f'GET {_ONE}'),
    ('container:get_all', ADMIN_OR_OWNER, 'List containers.', _LIST),
    ('container:get_all:host', ADMIN, 'List the containers of one host.', _LIST),
    ('container:get_all_all_projects', ADMIN, 'List the containers of all projects.', _LIST),
    ('container:update', ADMIN_OR_OWNER, 'Change a container.', f'PATCH {_ONE}'),
    ('container:start', ADMIN_OR_OWNER, 'Start a container.', f'POST {_ONE}/start'),
    ('container:stop', ADMIN_OR_OWNER, 'Stop a container.', f'POST {_ONE}/stop'),
    ('container:reboot', ADMIN_OR_OWNER, 'Restart a container.', f'POST {_ONE}/reboot'),
    ('container:pause', ADMIN_OR_OWNER, 'Pause a container.', f'POST {_ONE}/pause'),
    ('container:unpause', ADMIN_OR_OWNER, 'Let a paused container go on.', f'POST {_ONE}/unpause'),
    ('container:kill', ADMIN_OR_OWNER, 'Send a signal to a container.', f'POST {_ONE}/kill'),
    ('container:logs', ADMIN_OR_OWNER, "Read a container's output.", f'GET {_ONE}/logs'),
    ('container:execute', ADMIN_OR_OWNER, 'Run a command in a container.', f'POST {_ONE}/execute'),
    (
        'container:execute_resize',
        ADMIN_OR_OWNER,
        "Resize a command's terminal.",
        f'POST {_ONE}/execute_resize',
    ),
    ('container:rename', ADMIN_OR_OWNER, 'Rename a container.', f'POST {_ONE}/rename'),
    ('container:attach', ADMIN_OR_OWNER, 'Attach to a container.', f'GET {_ONE}/attach'),
    ('container:resize', ADMIN_OR_OWNER, "Resize a container's terminal.", f'POST {_ONE}/resize'),
    ('container:top', ADMIN_OR_OWNER, "List a container's processes.", f'GET {_ONE}/top'),
    ('container:stats', ADMIN_OR_OWNER, 'See what a container uses.', f'GET {_ONE}/stats'),
    (
        'container:get_archive',
        ADMIN_OR_OWNER,
        'Copy out of a container.',
        f'GET {_ONE}/get_archive',
    ),
    (
        'container:put_archive',
        ADMIN_OR_OWNER,
        'Copy into a container.',
        f'POST {_ONE}/put_archive',
    ),
    (
        'container:commit',
        ADMIN_OR_OWNER,
        'Make an image of a container.',
        f'POST {_ONE}/commit',
    ),
    (
        'container:add_security_group',
        ADMIN_OR_OWNER,
        'Add a security group to a container.',
        f'POST {_ONE}/add_security_group',
    ),
    (
        'container:remove_security_group',
        ADMIN_OR_OWNER,
        'Take a security group from a container.',
        f'POST {_ONE}/remove_security_group',
    ),
    (
        'container:network_attach',
        ADMIN_OR_OWNER,
        'Attach a network to a container.',
        f'POST {_ONE}/network_attach',
    ),
    (
        'container:network_detach',
        ADMIN_OR_OWNER,
        'Detach a network from a container.',
        f'POST {_ONE}/network_detach',
    ),
    (
        'container:network_list',
        ADMIN_OR_OWNER,
        'List the networks of a container.',
        f'GET {_ONE}/network_list',
    ),
    ('container:rebuild', ADMIN_OR_OWNER, 'Make a container anew.', f'POST {_ONE}/rebuild'),
    (
        'container:resize_container',
        ADMIN_OR_OWNER,
        "Change a container's cpu and memory.",
        f'POST {_ONE}/resize_container',
    ),
    (
        'container:actions',
        ADMIN_OR_OWNER,
        'See the requests that changed a container.',
        f'GET {_ONE}/container_actions',
    ),
    (
        'container:action:events',
        ADMIN,
        'See the traceback of a step that failed.',
        f'GET {_ONE}/container_actions/{{request_id}}',
    ),
    ('zun-service:get_all', ADMIN, 'List the agents.', 'GET /v1/services'),
    ('zun-service:delete', ADMIN, 'Forget an agent.', 'DELETE /v1/services'),
    ('zun-service:enable', ADMIN, 'Let an agent have new work.', 'PUT /v1/services/enable'),
    ('zun-service:disable', ADMIN, 'Give an agent no new work.', 'PUT /v1/services/disable'),
    ('zun-service:force_down', ADMIN, 'Say that an agent is down.', 'PUT /v1/services/force_down'),
    ('host:get_all', ADMIN, 'List the hosts.', 'GET /v1/hosts'),
    ('host:get', ADMIN, 'Show a host.', 'GET /v1/hosts/{host_ident}'),
    ('network:delete', 'role:admin', 'Delete a Docker network.', 'DELETE /v1/networks/{network}'),
    (
        'availability_zones:get_all',
        ADMIN_OR_OWNER,
        'List the availability zones.',
        'GET /v1/availability_zones',
    ),
)


def list_rules() -> list[policy.RuleDefault]:
    """Return the rules and their defaults, for ``oslopolicy-sample-generator``."""
    rules = [policy.RuleDefault(name, check, description) for name, check, description in _BASE]
    for name, check, description, operation in _RULES:
        method, _, path = operation.partition(' ')
        rules.append(
            policy.DocumentedRuleDefault(
                name, check, description, [{'method': method, 'path': path}]
            )
        )
    return rules


_FILE_CHECK_INTERVAL = 1.0
"""Seconds. A request asks several rules, and looking for the file costs more than a rule."""


class _Enforcer(policy.Enforcer):
    """Sees a change of the policy file within a second, not within each question.

    :ivar answers: given since then; one user's requests ask much the same
    """

    _next_check = 0.0

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        self.answers: dict[Hashable, bool] = {}

    def load_rules(self, force_reload: bool = False) -> None:
        """Read the file if it changed, unless it was looked at just now."""
        if force_reload or monotonic() >= self._next_check:
            super().load_rules(force_reload)
            self.answers = {}
            self._next_check = monotonic() + _FILE_CHECK_INTERVAL


class Policy:
    """Answers whether a user may do a thing."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Use the policy file that `conf` names, over the defaults."""
        self._enforcer = _Enforcer(conf)
        self._enforcer.register_defaults(list_rules())

    def allows(
        self, context: Context, rule: str, target: dict[str, typing.Any] | None = None
    ) -> bool:
        """Tell whether `rule` lets the user do it.

        :param target: the object; without one, an object of the user's own project
        """
        if target is None:
            target = {'project_id': context.project_id, 'user_id': context.user_id}
        credentials = context.credentials()
        self._enforcer.load_rules()
        answers = self._enforcer.answers
        told = (*target.values(), *credentials.values())
        key = (rule, *(tuple(each) if isinstance(each, list) else each for each in told))
        if key not in answers:
            answers[key] = bool(self._enforcer.authorize(rule, target, credentials))
        return answers[key]

    def authorize(
        self, context: Context, rule: str, target: dict[str, typing.Any] | None = None
    ) -> None:
        """Do nothing if `rule` lets the user do it.

        :raises PolicyNotAuthorized: if it does not
        """
        if not self.allows(context, rule, target):
            raise errors.PolicyNotAuthorized(f'Policy does not allow {rule} to be performed.')

"""Tenants of the cloud, as its users are: stock clients, unmodified."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import typing

import openstack
import openstack.config
import requests
from zunclient import api_versions
from zunclient.common.apiclient import exceptions as zun_errors
from zunclient.v1 import client as zun_client

from tests.cloud import host, settings
from tests.cloud.waiting import wait_until

NotFound = zun_errors.NotFound
HttpError = zun_errors.HttpError

START = 60.0  # seconds within which a container must have started, its sandbox included


class User:
    """One account of the cloud: ``admin``, ``demo`` or ``other``."""

    def __init__(self, name: str) -> None:
        conf = settings.load()
        self.name = name
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith('OS_')},
            'PATH': f'{conf["BIN"]}:{conf["VENV"]}/bin:{os.environ["PATH"]}',
            'OS_CLIENT_CONFIG_FILE': f'{conf["ALLINONE_DIR"]}/clouds.yaml',
            'OS_CLOUD': name,
        }
        config = openstack.config.OpenStackConfig(
            config_files=[self.environment['OS_CLIENT_CONFIG_FILE']], load_envvars=False
        )
        self.sdk = openstack.connection.Connection(config=config.get_one(cloud=name))
        self.compute, self.network, self.image = (
            self.sdk.compute,
            self.sdk.network,
            self.sdk.image,
        )
        self.project_id: str = self.sdk.current_project_id
        self.zun = self.at('1.40')
        self.containers = self.zun.containers

    def at(self, version: str, url: str | None = None) -> typing.Any:
        """Return a zunclient of that microversion.

        :param url: of an API that is not the one in the catalogue
        """
        return zun_client.Client(
            session=self.sdk.session,
            endpoint_override=url,
            region_name=settings.load()['REGION'],
            api_version=api_versions.APIVersion(version),
        )

    def cli(self, *words: str, timeout: float = 120) -> str:
        """Run a stock command (``zun`` or ``openstack``), and return what it printed.

        :raises AssertionError: it failed; the message holds what it said
        """
        result = self.cli_result(*words, timeout=timeout)
        said = f'{result.stdout}{result.stderr}'
        assert result.returncode == 0, f'{shlex.join(words)} as {self.name}:\n{said}'
        return result.stdout

    def cli_result(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a stock command, whatever comes of it."""
        return subprocess.run(
            words,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def cli_json(self, *words: str) -> typing.Any:
        """Run an ``openstack`` command with output in JSON.

        The format is asked for before other options: what comes last may be the command of
        a container.
        """
        options = next((at for at, word in enumerate(words) if word.startswith('-')), len(words))
        asked = (*words[:options], '-f', 'json', *words[options:])
        return json.loads(self.cli('openstack', *asked))

    def request(
        self,
        method: str,
        path: str,
        *,
        version: str = '1.40',
        endpoint: str | None = None,
        **kwargs: typing.Any,
    ) -> requests.Response:
        """Call the container API without any client library.

        :param endpoint: of another agent than allinone's
        """
        headers = {'OpenStack-API-Version': f'container {version}', **kwargs.pop('headers', {})}
        headers.setdefault('X-Auth-Token', self.sdk.session.get_token())
        return requests.request(
            method,
            (endpoint or settings.load().endpoint('AGENT')) + path,
            headers=headers,
            timeout=60,
            **kwargs,
        )

    def show(self, container_id: str) -> typing.Any:
        """Return a container as the API shows it; of any project, for the admin."""
        return self.containers.get(container_id)

    def status(self, container_id: str) -> str:
        """Return a container's status, ``gone`` when there is none."""
        try:
            return str(self.show(container_id).status)
        except NotFound:
            return 'gone'

    def describe(self, container_id: str) -> str:
        """Tell all about a container, for a failure."""
        try:
            shown = json.dumps(self.show(container_id).to_dict(), indent=1)
        except (HttpError, NotFound) as error:
            shown = f'container {container_id}: {error}'
        sandbox = host.sandbox_of(container_id)
        return f'{shown}\n{host.describe([sandbox] if sandbox else [])}'

    def wait(self, container_id: str, *statuses: str, timeout: float = START) -> typing.Any:
        """Wait until a container has one of these statuses, and return it.

        A container in Error is waited for no longer, unless that is what is wanted.
        """
        seen: list[str] = []

        def arrived() -> bool:
            seen.append(self.status(container_id))
            return seen[-1] in statuses or seen[-1] == 'Error'

        wait_until(
            f'container {container_id} {" or ".join(statuses)}',
            arrived,
            timeout=timeout,
            interval=0.1,
            explain=lambda: self.describe(container_id),
        )
        assert seen[-1] in statuses, f'not {statuses}:\n{self.describe(container_id)}'
        return None if seen[-1] == 'gone' else self.show(container_id)

    def execute(self, container_id: str, script: str) -> tuple[str, int | None]:
        """Run a shell script in a container; returns its output and its exit code."""
        answer = self.containers.execute(
            container_id, command=shlex.join(['sh', '-c', script]), run=True, interactive=False
        )
        return answer['output'], answer['exit_code']

    def shell(self, container_id: str, script: str) -> str:
        """Run a shell script in a container that must succeed; returns its output."""
        output, code = self.execute(container_id, script)
        assert code == 0, f'{script!r} ended with {code}: {output}'
        return output

    def logs(self, container_id: str, **parameters: typing.Any) -> str:
        """Return a container's output, both streams unless said otherwise."""
        asked = {'stdout': True, 'stderr': True, 'timestamps': False, 'tail': 'all', 'since': None}
        asked.update(parameters)
        return self.containers.logs(
            container_id, **{key: value for key, value in asked.items() if value is not None}
        )

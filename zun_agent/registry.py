"""The records of who has which sandbox, and of the agents themselves."""

from __future__ import annotations

import typing
import uuid as uuidlib

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from zun_agent.database import Database
from zun_agent.models import Container, SandboxClaim, Service, now


class Registry:
    """The claims of sandboxes, and the agents: the part of the store without containers."""

    def __init__(self, database: Database) -> None:
        """Keep the records in `database`."""
        self._database = database

    # Claims

    def claim(self, sandbox_id: str) -> SandboxClaim | None:
        """Return who claimed the sandbox, or None."""
        return self._database.read(lambda session: session.get(SandboxClaim, sandbox_id))

    def claims_of(self, host: str) -> list[SandboxClaim]:
        """Return the claims that this host holds."""
        query = sa.select(SandboxClaim).where(SandboxClaim.host == host)
        return self._database.read(lambda session: list(session.scalars(query)))

    def claim_sandbox(
        self,
        sandbox_id: str,
        project_id: str,
        host: str,
        incarnation: str,
        previous: str | None,
    ) -> bool:
        """Claim a sandbox and its containers for a host: compare and swap.

        :param previous: the incarnation that the caller saw claimed; None for no claim
        :returns: whether the claim is the caller's now; repeating one that is, is fine
        """

        def work(session: Session) -> bool:
            claim = session.get(SandboxClaim, sandbox_id, with_for_update=True)
            mine = claim is not None and (claim.host, claim.incarnation) == (host, incarnation)
            if not mine:
                if (claim.incarnation if claim else None) != previous:
                    return False
                if claim is None:
                    claim = SandboxClaim(sandbox_id=sandbox_id)
                    session.add(claim)
                claim.project_id, claim.host = project_id, host
                claim.incarnation, claim.claimed_at = incarnation, now()
                session.flush()
            session.execute(
                sa.update(Container)
                .where(Container.sandbox_id == sandbox_id, Container.project_id == project_id)
                .where(sa.or_(Container.host.is_(None), Container.host != host))
                .values(host=host)
            )
            return True

        try:
            return self._database.write(work)
        except IntegrityError:  # another agent's first claim came first
            return False

    def release_sandbox(self, sandbox_id: str) -> None:
        """End the claim of a sandbox that is gone."""
        query = sa.delete(SandboxClaim).where(SandboxClaim.sandbox_id == sandbox_id)
        self._database.write(lambda session: session.execute(query))

    # Agents

    def report(
        self, host: str, endpoint: str, facts: dict[str, typing.Any], zone: str | None
    ) -> Service:
        """Record that the agent of this host lives, and what its host has."""

        def work(session: Session) -> Service:
            query = sa.select(Service).where(Service.host == host, Service.binary == 'zun-agent')
            service = session.scalars(query.with_for_update()).one_or_none()
            if service is None:
                service = Service(uuid=str(uuidlib.uuid4()), host=host, report_count=0)
                session.add(service)
            service.endpoint, service.availability_zone = endpoint, zone
            service.facts, service.last_seen_up = facts, now()
            service.report_count += 1
            return service

        try:
            return self._database.write(work)
        except IntegrityError:  # the same host's other thread was first
            return self._database.write(work)

    def services(self) -> list[Service]:
        """Return all agents, those that are down included."""
        query = sa.select(Service).order_by(Service.id)
        return self._database.read(lambda session: list(session.scalars(query)))

    def service(self, host: str) -> Service | None:
        """Return the agent of that host, or None."""
        query = sa.select(Service).where(Service.host == host, Service.binary == 'zun-agent')
        return self._database.read(lambda session: session.scalars(query).one_or_none())

"""The database behind the store: connections, transactions, and the one seam for its errors."""

from __future__ import annotations

import json
import os
import pathlib
import random
import sqlite3
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from oslo_log import log as logging
from sqlalchemy import event, exc
from sqlalchemy.orm import Session, sessionmaker

from zun_agent import errors

LOG = logging.getLogger(__name__)

T = typing.TypeVar('T')

ATTEMPTS = 5
"""How often a transaction is tried that met a deadlock or a lost connection."""

LOCK_WAIT = 10
"""Seconds to wait for a lock that another transaction holds."""

ANSWER_WAIT = 30
"""Seconds to wait for the answer of a database's server."""

_MIGRATION_LOCK = 'zun-agent-migration'

_EMPTY_JSON: dict[str, Callable[[], object]] = {'{}': dict, '[]': list}

# MariaDB: lock wait timeout, deadlock, record changed since last read, connection lost or
# refused (2003, 2006, 2013), server shutting down (1053), too many connections (1040).
_MYSQL_RETRIED = frozenset({1020, 1040, 1053, 1205, 1213, 2003, 2006, 2013})
# PostgreSQL: serialization failure, deadlock, lock not available.
_POSTGRESQL_RETRIED = frozenset({'40001', '40P01', '55P03'})


class Database:
    """One SQL database and the transactions on it."""

    def __init__(self, url: str) -> None:
        """Use the database at the SQLAlchemy `url`; nothing is connected to yet."""
        self._url = sa.make_url(url)
        self.engine = _engine(self._url)
        # Where a transaction that only reads costs round trips, there is none: what is read
        # together is read by one statement. For SQLite it costs nothing.
        sqlite = self._url.get_backend_name() == 'sqlite'
        self._reading = self.engine if sqlite else _engine(self._url, 'AUTOCOMMIT')
        self._sessions = {
            write: sessionmaker(self.engine if write else self._reading, expire_on_commit=False)
            for write in (True, False)
        }

    def read(self, work: Callable[[Session], T]) -> T:
        """Return what `work` reads; the objects are detached from the session.

        :raises errors.ServiceUnavailable: the database does not answer
        """
        return self._run(work, write=False)

    def write(self, work: Callable[[Session], T]) -> T:
        """Do `work` in one transaction, again if the database asks for that.

        :param work: is called once for each attempt, with a fresh session
        :raises errors.ServiceUnavailable: the database does not answer
        """
        return self._run(work, write=True)

    def _run(self, work: Callable[[Session], T], *, write: bool) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._sessions[write]() as session:
                    session.connection(execution_options={'zun_write': write})
                    result = work(session)
                    if write:
                        session.commit()
                    return result
            except exc.IntegrityError:
                raise
            except (exc.DBAPIError, exc.TimeoutError) as error:
                if not _may_be_retried(error) or attempt == ATTEMPTS:
                    LOG.exception('the store failed at attempt %d and is given up', attempt)
                    raise errors.ServiceUnavailable('The store does not answer.') from error
                LOG.info('the store asks for another attempt, after %d: %s', attempt, error)
                time.sleep(random.uniform(0.5, 1.5) * 0.02 * 2**attempt)  # noqa: S311
        raise AssertionError('unreachable')

    @contextmanager
    def migration(self) -> Iterator[sa.Connection]:
        """Hold a connection in which the schema may be changed, one agent at a time.

        :raises errors.ServiceUnavailable: the database does not answer
        """
        try:
            if self._url.get_backend_name() == 'sqlite':
                _create_file(self._url.database)
            with self.engine.connect().execution_options(zun_write=True) as connection:
                connection.begin()  # for SQLite this is the lock
                self._lock_schema(connection)
                yield connection
                connection.commit()
                self._unlock_schema(connection)
        except (exc.DBAPIError, OSError) as error:
            reason = error.orig if isinstance(error, exc.DBAPIError) else error
            raise errors.ServiceUnavailable(f'The store cannot be used: {reason}.') from error

    def _lock_schema(self, connection: sa.Connection) -> None:
        """Keep other agents out; SQLite's transactions on the schema do so by themselves."""
        backend = self._url.get_backend_name()
        if backend in ('mysql', 'mariadb'):
            got = connection.scalar(sa.text('SELECT GET_LOCK(:n, 120)'), {'n': _MIGRATION_LOCK})
            if got != 1:
                raise errors.ServiceUnavailable('Another agent migrates the store for too long.')
        elif backend == 'postgresql':
            for limit in ('statement_timeout = 0', "lock_timeout = '120s'"):
                connection.execute(sa.text(f'SET LOCAL {limit}'))
            connection.execute(sa.text('SELECT pg_advisory_xact_lock(9517)'))

    def _unlock_schema(self, connection: sa.Connection) -> None:
        if self._url.get_backend_name() in ('mysql', 'mariadb'):
            connection.execute(sa.text('SELECT RELEASE_LOCK(:n)'), {'n': _MIGRATION_LOCK})

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.engine.dispose()
        self._reading.dispose()


def _engine(url: sa.URL, isolation_level: str = 'READ COMMITTED') -> sa.Engine:
    backend = url.get_backend_name()
    options: dict[str, typing.Any] = {
        # A connection beyond them is made anew each time: a burst of requests keeps its own.
        'pool_size': 16,
        'max_overflow': 48 if backend == 'sqlite' else 16,
        'pool_timeout': 30,
        'json_deserializer': _read_json,
        # A session ends its transaction itself; a second ROLLBACK would be a round trip.
        'pool_reset_on_return': None,
        'hide_parameters': True,  # errors are logged, and environments hold passwords
    }
    if backend == 'sqlite':
        engine = sa.create_engine(url, connect_args={'timeout': LOCK_WAIT}, **options)
        event.listen(engine, 'connect', _prepare_sqlite)
        event.listen(engine, 'begin', _begin_sqlite)
        return engine
    # A ping before each use would cost a round trip; a connection that was lost is noticed
    # by the retry instead, and those that the server gives up for idleness are not kept.
    options.update(pool_recycle=600, isolation_level=isolation_level)
    options.update(skip_autocommit_rollback=True)
    if url.get_driver_name() in ('psycopg', 'psycopg2'):  # what libpq takes
        return sa.create_engine(url, connect_args=_libpq_limits(url), **options)
    if url.get_driver_name() != 'pymysql':
        return sa.create_engine(url, **options)
    from zun_agent import mysql  # its driver need not be there for another database

    timeouts = {'connect_timeout': 5, 'read_timeout': ANSWER_WAIT, 'write_timeout': ANSWER_WAIT}
    lock_wait = f'SET SESSION innodb_lock_wait_timeout={LOCK_WAIT}'
    engine = sa.create_engine(url, connect_args={**timeouts, 'init_command': lock_wait}, **options)
    mysql.use(engine)
    return engine


def _libpq_limits(url: sa.URL) -> dict[str, typing.Any]:
    """Return how long to wait for PostgreSQL, where the operator's URL does not say."""
    waits = f'-c lock_timeout={LOCK_WAIT}s -c statement_timeout={ANSWER_WAIT}s'
    own = url.query.get('options', ())
    limits = {
        'connect_timeout': 5,
        # Of a host that has gone: what it has not acknowledged, and what it has.
        'tcp_user_timeout': ANSWER_WAIT * 1000,
        'keepalives_idle': ANSWER_WAIT // 3,
        'keepalives_interval': ANSWER_WAIT // 6,
    }
    limits = {name: limit for name, limit in limits.items() if name not in url.query}
    return {**limits, 'options': ' '.join((waits, *((own,) if isinstance(own, str) else own)))}


def _read_json(text: str) -> typing.Any:
    """Read the JSON of a column; most of them are empty, which needs no parser."""
    make = _EMPTY_JSON.get(text)
    return make() if make is not None else json.loads(text)


def _prepare_sqlite(connection: typing.Any, _record: typing.Any) -> None:
    # The module's own transactions begin too late (at the first write); `_begin_sqlite` does it.
    connection.isolation_level = None
    _write_ahead(connection)
    for pragma in ('synchronous=FULL', 'foreign_keys=ON'):
        connection.execute(f'PRAGMA {pragma}')


def _write_ahead(connection: typing.Any) -> None:
    """Have the file keep a write-ahead log, which every agent that starts asks of a new one.

    SQLite waits for whom it finds reading, but refuses at once where another writes.
    """
    until = time.monotonic() + LOCK_WAIT
    while True:
        try:
            connection.execute('PRAGMA journal_mode=WAL')
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and then writes would fail, not wait, when another wrote.
    write = connection.get_execution_options().get('zun_write')
    connection.exec_driver_sql('BEGIN IMMEDIATE' if write else 'BEGIN')


def _create_file(path: str | None) -> None:
    """Create the file for this user alone: environments hold passwords."""
    if path and path != ':memory:' and not pathlib.Path(path).exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _may_be_retried(error: exc.DBAPIError | exc.TimeoutError) -> bool:
    if isinstance(error, exc.TimeoutError):  # no connection was free for long enough already
        return False
    if error.connection_invalidated:
        return True
    original = error.orig
    if getattr(original, 'sqlstate', None) in _POSTGRESQL_RETRIED:
        return True
    arguments: tuple[object, ...] = getattr(original, 'args', ())
    return bool(arguments) and arguments[0] in _MYSQL_RETRIED

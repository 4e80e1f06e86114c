"""What connections to MariaDB have in common."""

import contextlib

import pytest
from pymysql import connections

from tests.unit.agent.conftest import SERVED
from zun_agent import mysql
from zun_agent.database import Database


def test_connections_share_one_context():
    one, two = (mysql.Connection(defer_connect=True) for _ in range(2))
    theirs = connections.Connection(defer_connect=True)
    assert one.ctx is two.ctx
    # The rest is as PyMySQL has it: encrypted if the server can, whoever that is.
    assert (one.ssl, one._ssl_required) == (theirs.ssl, theirs._ssl_required) == (True, False)
    assert one.ctx.verify_mode == theirs.ctx.verify_mode


def test_what_the_operator_asks_for_is_not_shared():
    plain = mysql.Connection(defer_connect=True)
    checked = mysql.Connection(defer_connect=True, ssl_verify_cert=True)
    assert checked.ctx is not plain.ctx
    assert checked.ctx.verify_mode != plain.ctx.verify_mode
    assert checked._ssl_required


@pytest.mark.parametrize('url', SERVED[:1], indirect=True)
def test_the_store_uses_them(url):
    database = Database(url)
    with contextlib.closing(database), contextlib.ExitStack() as kept:
        for engine in (database.engine, database._reading):
            connection = kept.enter_context(engine.connect())
            assert isinstance(connection.connection.dbapi_connection, mysql.Connection)
            assert connection.exec_driver_sql('SELECT @@innodb_lock_wait_timeout').scalar() == 10

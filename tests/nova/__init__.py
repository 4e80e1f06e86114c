"""Tests on nova's own fixtures; they run under stestr."""

import functools
import gc
import logging
import re
import warnings

from oslo_policy import policy
from sqlalchemy import exc


def accept_sqlalchemy():
    """Let nova use what SQLAlchemy 2.1 deprecates; its fixtures make warnings errors.

    To be called after those fixtures, which replace the filters.
    """
    warnings.filterwarnings('ignore', category=exc.SADeprecationWarning)


# It speaks when a test has ended, and its logging with it, of each thread pool that ends.
logging.getLogger('nova.thread_pool_factory').setLevel(logging.WARNING)

# Each test starts nova anew, whose fixtures do the same work each time. That was a third of all.
policy.parse_file_contents = functools.cache(policy.parse_file_contents)
re._MAXCACHE = 10_000  # its API has more routes than are remembered
gc.set_threshold(5_000, 10, 10)  # its modules are many objects, which stay

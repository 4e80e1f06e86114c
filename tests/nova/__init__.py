"""Tests on nova's own fixtures; they run under stestr."""

import logging
import warnings

from sqlalchemy import exc


def accept_sqlalchemy():
    """Let nova use what SQLAlchemy 2.1 deprecates; its fixtures make warnings errors.

    To be called after those fixtures, which replace the filters.
    """
    warnings.filterwarnings('ignore', category=exc.SADeprecationWarning)


# It speaks when a test has ended, and its logging with it, of each thread pool that ends.
logging.getLogger('nova.thread_pool_factory').setLevel(logging.WARNING)

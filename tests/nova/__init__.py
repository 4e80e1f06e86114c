"""Tests on nova's own fixtures; they run under stestr."""

import warnings

from sqlalchemy import exc


def accept_sqlalchemy():
    """Let nova use what SQLAlchemy 2.1 deprecates; its fixtures make warnings errors.

    To be called after those fixtures, which replace the filters.
    """
    warnings.filterwarnings('ignore', category=exc.SADeprecationWarning)

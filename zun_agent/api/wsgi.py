"""For any WSGI server: ``module = zun_agent.api.wsgi:application``.

The reconciler is not part of it: a ``zun-agent`` must run on each host all the same.
"""

from __future__ import annotations

"""The project's tests.

nova chooses native threads or eventlet when it is first imported, and a process cannot
change its mind: whichever test is loaded first, it has to be threads, as in nova-compute.
"""

import contextlib
import os

os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = '1'

with contextlib.suppress(ModuleNotFoundError):  # the agent and its tests need no nova
    from nova import monkey_patch

    monkey_patch.patch(backend='threading')

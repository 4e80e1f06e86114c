"""Tests of the driver.  What nova's own modules warn of when they are imported is nova's."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import zun_virt.driver  # noqa: F401

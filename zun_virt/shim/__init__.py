"""Installed as ``nova.virt.zun_virt``, the only place nova looks for a compute driver."""

from zun_virt.driver import ZunDriver

__all__ = ['ZunDriver']

"""The systems that we are compared with."""

from .etcd import EtcdServer
from .nginx import NginxServer

__all__ = ["EtcdServer", "NginxServer"]

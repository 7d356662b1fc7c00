"""Traffic Manager: which URL serves this service of this tenant, environment and version, right now?"""

from importlib.metadata import version

__version__ = version("traffic-manager")

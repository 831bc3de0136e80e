"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pullback")
except PackageNotFoundError:  # a source tree that was put on the path by hand
    __version__ = "0+source"

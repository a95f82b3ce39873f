"""The version of the package. The build reads it here without importing anything."""

__version__ = "0.1.0"

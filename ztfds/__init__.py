"""The data system of a ZTF-class sky survey."""

__version__ = "0.1.0"

"""The version, where the reports and recordings that name it can import it from."""

__version__ = "0.1.0"

"""The one place in the package that states its version; pyproject.toml reads it from here."""

__version__ = "0.1.0"

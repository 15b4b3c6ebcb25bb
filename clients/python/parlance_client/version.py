"""The client's version, as it tells servers; the same as in `pyproject.toml`."""

VERSION = "0.3.0"

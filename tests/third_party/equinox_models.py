"""Flows of `flowjax`, which are Equinox modules."""

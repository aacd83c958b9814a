# Generated from _async/__init__.py by scripts/generate_sync.py. Do not edit.
"""The blocking client, generated from ``superserve._async``."""

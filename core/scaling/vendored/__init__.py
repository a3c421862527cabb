"""Contracts of others, as they publish them, with their stubs."""

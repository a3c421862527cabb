"""Servers on this host: local processes that programs of one user share (`shared`), and containers (`compose`)."""

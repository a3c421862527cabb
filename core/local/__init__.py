"""Servers on this host: those that the programs of one user share (`shared`), and those in containers (`compose`)."""

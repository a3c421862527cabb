"""The parts shared by all skill servers: serving, health, reflection, drain, child processes, resources."""

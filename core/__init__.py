"""The host's side: finds skills, provides clients for them, and runs the loop. Loads no model."""

"""What runs in the host's process: finds skills, gives clients for them, runs the loop. Loads no model."""

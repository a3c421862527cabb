"""What `core.omni_loop` is made of: the settings, the conversation, one run through it, and what comes of it."""

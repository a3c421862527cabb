"""The parts of `core.omni_loop`: settings, prompts, the conversation, one run of the loop, its events and result."""

"""What all skill servers share: serving, health, reflection, drain, and what the machine allows."""

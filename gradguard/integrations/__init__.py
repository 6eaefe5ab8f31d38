"""Where other tools meet gradguard."""

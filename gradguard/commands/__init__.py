"""What the longer commands do; `gradguard.cli` reads the arguments."""

"""Commands that score saved answers, and tell what differs between runs."""

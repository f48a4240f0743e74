"""Programs that child processes run by their path. Each does what a user's script does, and no more."""

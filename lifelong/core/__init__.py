"""Batch, Strategy, Learner, checkpoint files and errors: what everything else stands on."""

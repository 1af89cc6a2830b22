"""Continual learning for PyTorch."""

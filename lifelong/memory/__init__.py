"""Preallocated rows, and the policies that choose which of them stay."""

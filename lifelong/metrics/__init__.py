"""The accuracy matrix and what is read off it; what learning costs."""

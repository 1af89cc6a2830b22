"""The production loop: serve a model and go on learning from what its users send back."""

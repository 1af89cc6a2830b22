"""The whole loop shown on real digits: a service, its traffic, and what happens to it."""

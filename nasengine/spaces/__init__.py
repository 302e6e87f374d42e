"""Spaces: alternatives of each other. Each file turns its part of the configuration into a Plan."""

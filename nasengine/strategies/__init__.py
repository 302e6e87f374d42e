"""Strategies: alternatives of each other. Each file answers the five verbs of ``base``."""

"""Search for small neural networks by pruning and regrowing a large one.

Two entrances: ``python -m nasengine`` and ``from nasengine.search import search``.
"""

__version__ = "0.1.0"

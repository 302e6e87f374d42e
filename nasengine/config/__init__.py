"""What a person may ask for: SearchConfig and its parts, every bound and help text once.

Form, API and command line all read these fields. `parse` is the only way in: it fills what is left out from the
preset and turns what is wrong into one ConfigError that names each field and its mend. Checks that need the data are
in ``outlook``.
"""

from __future__ import annotations

from nasengine.config.images import DataConfig
from nasengine.config.methods import METHODS
from nasengine.config.methods.dms import DMSConfig
from nasengine.config.methods.dna import MOST_SHOWN, DNAConfig
from nasengine.config.methods.mgas import MGASConfig
from nasengine.config.methods.msgdas import MSGDASConfig
from nasengine.config.presets import FEWEST_PIXELS, PRESETS
from nasengine.config.reading import MOST_PROBLEMS, document, parse
from nasengine.config.spaces import CANDIDATES, MOST_SIDE, SPACES, CellsSpace, ChainSpace, ImportedSpace
from nasengine.config.target import NO_AMOUNT, TargetConfig
from nasengine.config.training import MOST_EPOCHS, RetrainConfig, RuntimeConfig
from nasengine.config.whole import FEWEST_EPOCHS, HIGHEST_SEED, KINDS, SearchConfig

__all__ = [
    "CANDIDATES",
    "FEWEST_EPOCHS",
    "FEWEST_PIXELS",
    "HIGHEST_SEED",
    "KINDS",
    "METHODS",
    "MOST_EPOCHS",
    "MOST_PROBLEMS",
    "MOST_SHOWN",
    "MOST_SIDE",
    "NO_AMOUNT",
    "PRESETS",
    "SPACES",
    "CellsSpace",
    "ChainSpace",
    "DMSConfig",
    "DNAConfig",
    "DataConfig",
    "ImportedSpace",
    "MGASConfig",
    "MSGDASConfig",
    "RetrainConfig",
    "RuntimeConfig",
    "SearchConfig",
    "TargetConfig",
    "document",
    "parse",
]

"""Search methods: alternatives of each other. Each file has the settings of one."""

from __future__ import annotations

from nasengine.config.methods.dms import DMSConfig
from nasengine.config.methods.dna import DNAConfig
from nasengine.config.methods.mgas import MGASConfig
from nasengine.config.methods.msgdas import MSGDASConfig

AnyMethod = MGASConfig | DMSConfig | MSGDASConfig | DNAConfig
METHODS: dict[str, type[AnyMethod]] = {"mgas": MGASConfig, "dms": DMSConfig, "msgdas": MSGDASConfig, "dna": DNAConfig}

"""SAM backbones with their published parameter names, checkpoints, and the segmenter."""

from samtune.networks.architectures import ARCHITECTURES
from samtune.networks.build import Sam, build_sam
from samtune.networks.segmenter import SamSegmenter
from samtune.networks.sites import AttentionSite

__all__ = ["ARCHITECTURES", "AttentionSite", "Sam", "SamSegmenter", "build_sam"]

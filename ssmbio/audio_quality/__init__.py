"""Judging generated clips by a classifier of the project's own: FID, IS, mIS and AM, and likelihoods of real ones."""

from ssmbio.audio_quality.measures import am_score, fid, inception_score, modified_inception_score

__all__ = ["am_score", "fid", "inception_score", "modified_inception_score"]

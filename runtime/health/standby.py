"""Failover between backends under its public path; the implementation is `wavernn_trt.runtime.models.standby`."""

from wavernn_trt.runtime.models.standby import (
    Candidate,
    NobodyAnswersError,
    Problem,
    Speaker,
    Spoken,
    StandbyEvent,
    StandbyVocoder,
    usual_candidates,
)

__all__ = [
    "Candidate",
    "NobodyAnswersError",
    "Problem",
    "Speaker",
    "Spoken",
    "StandbyEvent",
    "StandbyVocoder",
    "usual_candidates",
]

"""TODO."""

from higgs_audio_trainer.diagnoses.finding import Check

CHECKS: tuple[Check, ...] = ()

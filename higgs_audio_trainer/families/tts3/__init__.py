"""Higgs TTS 3."""

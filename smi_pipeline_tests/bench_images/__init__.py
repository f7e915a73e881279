"""Honest and bad results of upscalers, made from photographs and scenes, on which the thresholds of the checks rest."""

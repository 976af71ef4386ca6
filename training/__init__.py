"""Joins networks, PEFT, preprocessing and evaluation: what the bundles are made of."""

"""Ensembles and process heads: what is not known about reward and cost."""

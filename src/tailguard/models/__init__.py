"""Policies: loading them, and the text and tokens that they read.

Nothing is imported here: a recipe's model folders are checked (`checkpoint`) before torch is loaded.
"""

"""Derivatives of a solve."""

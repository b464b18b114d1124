"""Measures of generators, inversion and domains."""

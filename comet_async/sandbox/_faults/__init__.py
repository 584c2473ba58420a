"""Faults: rules, wrong answers, broken connections."""

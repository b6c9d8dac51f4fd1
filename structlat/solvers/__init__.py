"""Solvers: from a MAP oracle and scores to a support, its probabilities, and a certificate."""

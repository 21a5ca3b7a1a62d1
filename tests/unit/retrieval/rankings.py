"""Average precision and gain of every order of ties, by enumeration: what the fast ways are compared with."""

from fractions import Fraction
from itertools import permutations, product


def tie_orders(keys, relevances):
    """Return every ranking (highest key first) of the relevances that some order of equal keys gives."""
    levels = sorted(set(keys), reverse=True)
    orders = [permutations([n for n, key in enumerate(keys) if key == level]) for level in levels]
    for order in product(*orders):
        yield [relevances[n] for group in order for n in group]


def ranked_average_precision(ranking, k, denominator):
    hits, total = 0, Fraction(0)
    for rank, relevant in enumerate(ranking[:k], start=1):
        if relevant:
            hits += 1
            total += Fraction(hits, rank)
    divisor = {"found": hits, "min(R,k)": min(sum(ranking), len(ranking[:k])), "R": sum(ranking)}[denominator]
    return total / divisor if divisor else Fraction(0)


def mean_over_ties(keys, relevances, k, denominator):
    values = [ranked_average_precision(order, k, denominator) for order in tie_orders(keys, relevances)]
    return float(sum(values, Fraction(0)) / len(values))

"""Codes without a network: bits, packing, exact counting, average precision, search."""

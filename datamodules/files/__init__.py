"""Readers of the field's files: lists, tables, CIFAR, iBioHash."""

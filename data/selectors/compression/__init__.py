"""Similarity of documents by compression: the exact score of ZIP-FIT, and estimates of it that cost less."""

"""Seeded generators of dialogues in the V4 prompt format. Nothing is downloaded."""

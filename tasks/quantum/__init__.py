"""Quantum: segments from quantum algorithms; its work comes with its own release."""

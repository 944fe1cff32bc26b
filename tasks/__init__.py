"""What the fleet does: one package a specialism, its entry points and its pure engine."""

"""Numbered migrations, `NNNN_name.sql`, each applied in one transaction with its record."""

"""Presentation of scaling results: terminal output, figures, the HTML report."""

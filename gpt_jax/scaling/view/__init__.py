"""What people see of a fit: lines, figures, the page."""

"""From predictions to report.json (summary) and report.html (page)."""

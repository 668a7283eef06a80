"""Results for people: text, tables, plots and pages; and as JSON."""

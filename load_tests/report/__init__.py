"""Results as text, tables, plots, HTML pages and JSON."""

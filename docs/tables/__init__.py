"""The generated tables: a module for each page or topic; each function returns Markdown."""

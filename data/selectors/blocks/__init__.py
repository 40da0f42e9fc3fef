"""What selectors compute with, imported only when documents are scored."""

"""Results as pages, tables and pictures, also against those of another commit."""

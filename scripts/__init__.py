"""What maintainers run: generated pages, the demo."""

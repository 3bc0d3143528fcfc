"""Everything that is known about one trace, on one page."""

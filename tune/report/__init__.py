"""The report of a search: one page that needs no network, and its figures."""

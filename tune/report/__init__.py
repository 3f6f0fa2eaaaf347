"""The report of a search: one page that needs no network, and its figures."""

from tune.report.write import write_report

__all__ = ["write_report"]

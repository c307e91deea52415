"""The report of a comparison: one page that needs nothing but itself."""

from sparse_lens.evals.report.report_page import report_html, write_report

__all__ = ["report_html", "write_report"]

"""The audit as people read it: audit.md and audit.html, beside audit.json and its tables."""

from analyses.report.markup import audit_html, audit_markdown
from analyses.report.sections import CANNOT_SEE, NEGATIVE_STATEMENT
from analyses.report.write import read_audit, write_audit, write_report

__all__ = [
    "CANNOT_SEE",
    "NEGATIVE_STATEMENT",
    "audit_html",
    "audit_markdown",
    "read_audit",
    "write_audit",
    "write_report",
]

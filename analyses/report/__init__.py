"""The audit as people read it: audit.md and audit.html, beside audit.json and its tables."""

from analyses.report.limits import NEGATIVE_STATEMENT, cannot_see
from analyses.report.markup import audit_html, audit_markdown
from analyses.report.write import read_audit, write_audit, write_report

__all__ = [
    "NEGATIVE_STATEMENT",
    "audit_html",
    "audit_markdown",
    "cannot_see",
    "read_audit",
    "write_audit",
    "write_report",
]

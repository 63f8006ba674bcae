"""The forms of a report: one function each, from a `rfdlight.results.report.Report` to text."""

"""Reports of evaluations: tables, statistics, plots, gallery, HTML and LaTeX."""

"""How a report's page looks."""

STYLE = """
:root { --ink: #1c1f23; --soft: #5b636b; --line: #d9dde1; --faint: #f5f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li { max-width: 46rem; }
p.reading, figcaption, footer { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; }
th, td { padding: .35rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--ink); }
thead tr:first-child:not(:last-child) th { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 400; min-width: 11rem; }
tbody tr.group th { font-weight: 600; background: var(--faint); }
td.number, th.number { text-align: right; white-space: nowrap; }
th.span { text-align: center; }
td small { display: block; color: var(--soft); }
table.pairs td:not(.number) { min-width: 11rem; }
td b { font-weight: 600; }
table.details td { min-width: 13rem; max-width: 18rem; overflow-wrap: anywhere; }
tbody th:not(.group), thead th:first-child { position: sticky; left: 0; background: #fff; }
table.details tr.headline, table.details tr.headline th { background: var(--faint); font-weight: 600; }
table.details th.indented { padding-left: 1.75rem; color: var(--soft); }
img.curves { width: 100%; max-width: 60rem; height: auto; }
figure { margin: 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
.example { border: 1px solid var(--line); border-radius: 6px; padding: .75rem; break-inside: avoid; }
.triple { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem; }
.triple img { width: 100%; display: block; image-rendering: pixelated; border: 1px solid var(--line); }
.triple span { font-size: .75rem; color: var(--soft); line-height: 1.2; display: block; margin-top: .2rem; }
.example figcaption { margin-top: .5rem; overflow-wrap: anywhere; }
.verdict { font-weight: 600; color: var(--ink); }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem .75rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.4; background: var(--faint); padding: .75rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }
@media (max-width: 40rem) {
  th, td { padding: .3rem .5rem; }
  tbody th, table.pairs td:not(.number) { min-width: 8rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  .wide { overflow: visible; }
  th, td { padding: .2rem .4rem; }
  table.details, table.details td, table.details th { min-width: 0; font-size: 8px; }
  h2, h3, p.reading { break-after: avoid; }
  tr, img.curves { break-inside: avoid; }
}
"""

"""Pages of HTML: the frame and the style that reports share, for dark and light, wide and narrow.

A page is one file that loads nothing from anywhere. Pieces of HTML enter, in which every text is
escaped already; a page or a larger piece leaves.
"""

from collections.abc import Iterable
from html import escape

_STYLE = """
:root{--fg:#1b1f24;--bg:#fff;--soft:#f3f5f8;--line:#d4dae2;--dim:#5a6572;--speech:#c2410c;
--bound:#1d4ed8;--cascade:#0f766e;--foreign:#7e22ce;--sanity:#8a94a3;--bad:#b91c1c;--good:#15803d}
@media (prefers-color-scheme:dark){:root{--fg:#e7ebf0;--bg:#14171c;--soft:#1e232b;--line:#38414d;
--dim:#a3afbd;--speech:#fb923c;--bound:#7aa2ff;--cascade:#4fd1c0;--foreign:#c084fc;--sanity:#8a94a3;--bad:#f87171;
--good:#4ade80}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1280px;padding:24px 16px 64px;color:var(--fg);background:var(--bg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.6em;margin:0 0 4px}h2{font-size:1.2em;margin:36px 0 8px}
h3{font-size:1em;margin:0 0 6px}p{margin:6px 0;max-width:75ch}.dim{color:var(--dim)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.tile{background:var(--soft);border-radius:8px;padding:10px 16px;min-width:150px;flex:1}
.tile b{display:block;font-size:1.5em}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{background:var(--soft)}
tr:last-child td{border-bottom:0}
@media (max-width:600px){td:first-child{white-space:normal;min-width:8em}}
td small{color:var(--dim)}
.tag{font-size:.75em;border:1px solid var(--dim);border-radius:4px;padding:0 5px;color:var(--dim)}
.bad{color:var(--bad);font-weight:600}.good{color:var(--good)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(290px,1fr));gap:16px}
.card{border:1px solid var(--line);border-radius:8px;padding:12px;min-width:0}
svg{width:100%;height:auto;display:block}svg text{font-size:11px;fill:var(--fg)}
.s-speech{fill:var(--speech);stroke:var(--speech)}.s-bound{fill:var(--bound);stroke:var(--bound)}
.s-cascade{fill:var(--cascade);stroke:var(--cascade)}
.s-foreign{fill:var(--foreign);stroke:var(--foreign)}
.s-sanity{fill:var(--sanity);stroke:var(--sanity)}
rect[class^=s-]{stroke:none}svg text.legend{stroke:none}svg text.legend.s-speech{fill:var(--speech)}
svg text.legend.s-bound{fill:var(--bound)}svg text.legend.s-cascade{fill:var(--cascade)}
svg text.legend.s-sanity{fill:var(--dim)}
.whisker,.axis{fill:none;stroke:var(--fg)}.axis{stroke:var(--dim)}
.curve{fill:none;stroke-width:1.8}.cell{fill:var(--speech)}
.point{fill:var(--speech);fill-opacity:.35}audio{max-width:100%}
details{border:1px solid var(--line);border-radius:8px;padding:8px 12px;margin:8px 0}
summary{cursor:pointer;font-weight:600}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:2px 12px;margin:10px 0;
padding-top:8px;border-top:1px solid var(--line)}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--soft);padding:10px;border-radius:8px;overflow-x:auto;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.9em}
"""


def build_page(title: str, sections: Iterable[str]) -> str:
    """Return a whole page; empty sections are left out."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body></html>\n"
    )


def build_tile(name: str, value: str, note: str) -> str:
    """A number that stands out, its name and a note; the latter two are HTML already."""
    return f'<div class="tile">{escape(name)}<b>{value}</b><small class="dim">{note}</small></div>'


def build_card(title: str, picture: str) -> str:
    """A picture in a frame; nothing where there is no picture."""
    return f'<div class="card"><h3>{escape(title)}</h3>{picture}</div>' if picture else ""


def build_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already, under plain headings."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'

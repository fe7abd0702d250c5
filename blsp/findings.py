"""One line of what `blsp doctor` reports, and the table that such lines make.

A finding is bad only where something has to be put right before a command can work. Findings enter;
aligned text leaves.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report: `bad` fails the command, `note` only informs."""

    state: Literal["ok", "bad", "note"]
    name: str
    found: str
    advice: str = ""


def format_findings(findings: list[Finding]) -> str:
    """Return the findings as aligned lines."""
    names = max((len(finding.name) for finding in findings), default=0)
    short = [len(finding.found) for finding in findings if finding.advice]
    return "\n".join(
        f"  {finding.state:<4}  {finding.name:<{names}}  "
        f"{finding.found:<{max(short, default=0)}}  {finding.advice}".rstrip()
        for finding in findings
    )
